"""Sweeps: what a space may hold, who gets which trial, and that a killed sweep neither loses nor doubles one."""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cnnjax import config as configs
from cnnjax import fields
from cnnjax.cli.config import fields_of
from cnnjax.configs import defaults
from cnnjax.configs.ladder import defaults as ladder_defaults
from cnnjax.errors import Interrupted, UserError
from cnnjax.experiments import launchers, sweep, sweep_queue, sweep_settings, sweep_worker, trainable
from cnnjax.experiments import space as spaces
from cnnjax.experiments.sweep_report import read_trials
from cnnjax.reporting import search
from cnnjax.training import workdir as workdirs
from tests import tiny_runs
from tests.conftest import ROOT, Killed, kill

RATES = {"optimizer.learning_rate": FloatDistribution(1e-3, 0.1, log=True)}
GRID = {"optimizer.learning_rate": CategoricalDistribution((0.01, 0.1)),
        "optimizer.momentum": FloatDistribution(0.5, 0.9, step=0.4)}


# The space

def test_a_grid_is_every_combination_once():
    points = spaces.grid({**GRID, "seed": IntDistribution(3, 7, step=2)})
    assert len(points) == 2 * 2 * 3
    assert points[0] == {"optimizer.learning_rate": 0.01, "optimizer.momentum": 0.5, "seed": 3}
    assert points[-1] == {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "seed": 7}
    assert len({tuple(p.values()) for p in points}) == len(points)


@pytest.mark.parametrize(("overrides", "space", "message"), [
    (("sweep.sampler=tp",), RATES, "'sweep.sampler': found 'tp', expected tpe, random or grid"),
    (("sweep.pruner=some",), RATES, "'sweep.pruner': found 'some'"),
    (("sweep.trials=0",), RATES, "'sweep.trials': found 0"),
    (("data.validation=0",), RATES, "'data.validation': found 0; a sweep chooses"),
    (("population=2",), RATES, "'population': found 2"),
    ((), {}, "is empty"),
    ((), {"optimizer.learningrate": FloatDistribution(0, 1)}, "did you mean 'optimizer.learning_rate'"),
    ((), {"optimizer.momentum": FloatDistribution(0, 1)}, "'optimizer.momentum': found 1.0, expected at least 0"),
    ((), {"model.name": CategoricalDistribution(("resnet20", "resnet21"))}, "did you mean"),
    ((), {"optimizer.momentum": (0, 0.9)}, "space() has tuple for 'optimizer.momentum'"),
    ((), None, "space() gave NoneType, expected a mapping"), ((), [3], "space() gave list, expected a mapping"),
    ((), {3: FloatDistribution(0, 0.5)}, "the space has the name 3"),
    ((), {"steps": FloatDistribution(20.5, 60.5)}, "'steps': found '20.5', expected int"),
    ((), {"data.path": CategoricalDistribution(("nowhere",)), "data.source": CategoricalDistribution(("folder",))},
     "nowhere"),
    (("sweep.sampler=grid",), RATES, "a range without steps for 'optimizer.learning_rate'"),
])
def test_a_sweep_without_sense_is_refused(overrides, space, message):
    with pytest.raises(UserError) as error:
        sweep_settings.check(tiny_runs.sweep(*overrides), space)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["def get_config(): pass", "space = 3", "def space(): raise OSError('space')"])
def test_a_file_without_a_space_is_named(tmp_path, text):
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(UserError, match=r"file.py: .*space"):
        spaces.load(tmp_path / "file.py")


def test_the_project_s_sweeps_can_be_run():
    from cnnjax.configs.sweep import digits
    sweep_settings.check(digits.get_config(), digits.space())
    configs.check(digits.get_config(), defaults.sweep())


# Spaces that are functions

def conditional(trial):
    """Some networks have a width, some rates a momentum; and a value that is worked out of another."""
    name = trial.suggest_categorical("model.name", ("lenet5", "resnet20"))
    if name == "resnet20":
        trial.suggest_int("model.width", 4, 8)
    share = trial.suggest_float("share", 0.1, 0.5)
    return {"optimizer.momentum": 1 - share}


def test_a_function_may_suggest_a_field_only_where_it_is_one():
    config = tiny_runs.sweep()
    with config.unlocked():
        del config.model.width, config.model.blocks
    assert sweep_settings.check(config, conditional) == ("validation_error", "min")
    drawn = [values for _, values in spaces.draws(conditional)]
    assert {(v["model.name"], "model.width" in v) for v in drawn} == {("lenet5", False), ("resnet20", True)}
    assert all("share" not in v for v in drawn)
    own = spaces.trial_config(config, drawn[0])
    assert own.optimizer.momentum == drawn[0]["optimizer.momentum"]
    assert spaces.to_json(conditional) == spaces.to_json(conditional)
    assert spaces.to_json(conditional).keys() == {"model.name", "model.width", "share"}


FUNCTIONS = {
    "nothing": ("def space(trial): pass", "suggests no value of a field"),
    "an empty mapping": ("def space(trial): return {}", "suggests no value of a field"),
    "a number": ("def space(trial): return trial.suggest_int('seed', 0, 5)", "space(trial) gave int"),
    "an error": ("def space(trial): return 1 / 0", "file.py: ZeroDivisionError: division by zero"),
    "an exit": ("def space(trial): raise SystemExit(3)", "file.py: SystemExit: 3"),
    "other choices of one name": ("""def space(trial):
        if trial.suggest_categorical('data.flip', (True, False)):
            trial.suggest_categorical('model.width', (4, 8))
        else:
            trial.suggest_categorical('model.width', (4, 16))""", "file.py: ValueError: Categorical"),
    "no field": ("def space(trial): trial.suggest_float('lr', 0.1, 1)", "config has no field 'lr'"),
    "no field in a mapping": ("def space(trial): return {'schedule.facto': 0.1}", "did you mean 'schedule.factor'"),
    "no field beside a mapping": ("""def space(trial):
        trial.suggest_float('schedule.powr', 0, 0.5)
        return {'optimizer.learning_rate': 0.1}""", "did you mean 'schedule.power'"),
    "no name": ("def space(trial): return {3: 0.1}", "the space has the name 3"),
    "another type": ("def space(trial): trial.suggest_float('steps', 20.5, 60.5)", "'steps': found '"),
    "nothing to run": ("def space(trial): trial.suggest_float('optimizer.momentum', 1, 2)", "expected at least 0"),
    "all pruned": ("import optuna\ndef space(trial): raise optuna.TrialPruned", "prunes every trial"),
    "reversed": ("def space(trial): trial.suggest_float('optimizer.momentum', 0.5, 0.1)", "file.py: ValueError: "),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_without_sense_is_refused_in_one_line(tmp_path, name):
    text, message = FUNCTIONS[name]
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(UserError) as error:
        sweep_settings.check(tiny_runs.sweep(), spaces.load(tmp_path / "file.py"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_of_a_function_is_refused():
    with pytest.raises(UserError, match=r"'grid', which needs a space\(\)"):
        sweep_settings.check(tiny_runs.sweep("sweep.sampler=grid"),
                             lambda trial: {"seed": trial.suggest_int("seed", 0, 3)})


def test_a_value_that_goes_with_no_other_is_refused_and_one_that_goes_with_some_is_not():
    space = {"model.name": CategoricalDistribution(("lenet5", "resnet20")), "model.width": IntDistribution(4, 8)}
    config = tiny_runs.sweep()
    with config.unlocked():
        del config.model.blocks
    with pytest.raises(UserError, match=r"nothing in the space goes with model.name='lenet5'.*space\(trial\)"):
        sweep_settings.check(config, space)
    sweep_settings.check(config, {**PAIRS, "batch_size": CategoricalDistribution((2, 8))})


# Who gets which trial

PAIRS = {"batch_size": CategoricalDistribution((2, 4)), "optimizer.accumulate": CategoricalDistribution((1, 4))}
"""Of which 2 images in 4 parts cannot be run."""


class Sweep:
    """A sweep of three trials in a storage, without its networks; several of them on one workdir are its workers."""

    def __init__(self, workdir):
        self.config, self.space = tiny_runs.sweep("sweep.trials=3"), RATES
        sweep_queue.begin(self.config, self.space, workdir, None, ("validation_error", "min"))
        self.storage = sweep_queue.open_storage(workdir, None)
        self.study = sweep_queue.open_study(workdir, self.config, self.storage)

    def refill(self):
        return sweep_queue.refill(self.study, self.storage, self.config, self.space)

    def take(self):
        return sweep_queue.take(self.refill(), self.storage)

    def states(self):
        return [(t.user_attrs["index"], t.state.name) for t in self.study.get_trials(deepcopy=False)]


@pytest.fixture
def stale(tmp_path):
    """A function after which the last heartbeat of every running trial was an hour ago."""
    def make(workdir=tmp_path):
        with contextlib.closing(sqlite3.connect(workdir / "sweep.db")) as database, database:
            database.execute("update trial_heartbeats set heartbeat = datetime(heartbeat, '-1 hour')")
    return make


def test_each_trial_is_taken_once(tmp_path):
    one, two = Sweep(tmp_path), Sweep(tmp_path)
    assert [t.user_attrs["index"] for t in (one.take(), two.take(), one.take())] == [0, 1, 2]
    assert one.take() is None
    assert two.take() is None
    assert one.states() == [(0, "RUNNING"), (1, "RUNNING"), (2, "RUNNING")]


def test_a_queued_trial_that_two_workers_see_goes_to_one(tmp_path):
    one, two = Sweep(tmp_path), Sweep(tmp_path)
    seen = one.refill(), two.refill()
    taken = sweep_queue.take(seen[0], one.storage), sweep_queue.take(seen[1], two.storage)
    assert [t.user_attrs["index"] for t in taken] == [0, 1]


def test_a_trial_without_heartbeat_is_run_again_with_all_that_it_had(tmp_path, stale):
    one, two = Sweep(tmp_path), Sweep(tmp_path)
    lost = optuna.Trial(one.study, one.take()._trial_id)
    rate = lost.suggest_float("optimizer.learning_rate", 1e-3, 0.1, log=True)
    lost.report(0.7, 10)
    lost.set_user_attr("steps", 10)
    stale()
    again = two.take()
    assert again.user_attrs == {"index": 0, "steps": 10}
    assert again.params == {"optimizer.learning_rate": rate}
    assert again.intermediate_values == {10: 0.7}
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        lost.report(0.6, 20)                # the worker that was lost, and lives after all
    one.study.tell(lost, 0.1, skip_if_finished=True)
    two.study.tell(again.number, 0.2)
    current = two.refill()
    assert [current[i].state for i in range(3)] == [TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING]
    assert current[0].value == 0.2


def test_a_trial_that_gives_heartbeats_stays_with_its_worker(tmp_path, stale, monkeypatch):
    one, two = Sweep(tmp_path), Sweep(tmp_path)
    trial = one.take()
    record, beats = one.storage.record_heartbeat, threading.Semaphore(0)
    monkeypatch.setattr(one.storage, "record_heartbeat", lambda number: (record(number), beats.release()))
    monkeypatch.setattr(sweep_queue, "HEARTBEAT", 0.1)
    stale()
    with sweep_queue.heartbeat(one.storage, trial):
        assert all(beats.acquire(timeout=60) for _ in range(2))
        assert two.refill()[0].state == TrialState.RUNNING
    assert two.refill()[0].number == trial.number


def test_a_worker_killed_between_two_commits_loses_no_trial(tmp_path, stale):
    one, two = Sweep(tmp_path), Sweep(tmp_path)
    first = one.take()
    optuna.Trial(one.study, first._trial_id).suggest_float("optimizer.learning_rate", 1e-3, 0.1, log=True)
    one.storage.set_trial_state_values(first._trial_id, TrialState.FAIL)        # and not queued again
    again = two.take()
    assert again.user_attrs["index"] == 0
    assert again.params.keys() == {"optimizer.learning_rate"}
    assert len(two.refill()) == 3


def test_an_index_queued_by_two_workers_counts_once(tmp_path):
    one = Sweep(tmp_path)
    for index in (0, 2):
        one.study.enqueue_trial({}, user_attrs={"index": index})
    assert [one.take().number for _ in range(3)] == [0, 1, 2]
    assert one.take() is None
    assert [state for _, state in one.states()] == ["RUNNING"] * 3 + ["FAIL"] * 2


def test_a_trial_that_loses_every_worker_fails_in_the_end(tmp_path, stale, monkeypatch):
    monkeypatch.setattr(sweep_queue, "RETRIES", 1)
    one = Sweep(tmp_path)
    for _ in range(2):
        assert one.take().user_attrs["index"] == 0
        stale()
    assert one.refill()[0].state == TrialState.FAIL
    assert one.take().user_attrs["index"] == 1
    sweep_queue.save_trials(tmp_path, None, 3)
    assert read_trials(tmp_path).trials[0]["reason"] == "its worker was lost 2 times"


def test_a_sweep_can_be_lengthened(tmp_path):
    one = Sweep(tmp_path)
    one.config.sweep.trials = 5
    sweep_queue.begin(one.config, one.space, tmp_path, None, ("validation_error", "min"))
    assert list(one.refill()) == [0, 1, 2, 3, 4]
    assert one.states() == [(i, "WAITING") for i in range(5)]


@pytest.mark.parametrize("made", ["an older sweep", "another study"])
def test_the_study_of_another_version_is_refused(tmp_path, made):
    config = tiny_runs.sweep()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/sweep.db", study_name=tmp_path.name)
    study.enqueue_trial({})
    if made == "an older sweep":
        study.set_user_attr("config", json.loads(configs.dump(config)))
    with pytest.raises(UserError, match="begun by another version of cnnjax"):
        sweep.run(config, RATES, tmp_path)


@pytest.mark.parametrize("name", ["q?x", "q?mode=ro", "a#b", "50%", "%41", "{x}", "$HOME", "a b", "a@b:c", ":memory:",
                                  "ü"])
def test_the_database_lies_in_the_workdir_whatever_its_name(tmp_path, name):
    workdir = tmp_path / name
    workdir.mkdir()
    study = optuna.create_study(storage=sweep_queue.open_storage(workdir, None), study_name="s")
    study.enqueue_trial({})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in workdir.iterdir()] == ["sweep.db"]
    assert len(optuna.load_study(storage=sweep_queue.open_storage(workdir, None), study_name="s").trials) == 1


# Whole sweeps

@pytest.fixture(autouse=True)
def cleared(monkeypatch):
    """How often programs were to be forgotten; they are kept, since what all tests use would be compiled again."""
    times = []
    monkeypatch.setattr(sweep_worker.jax, "clear_caches", lambda: times.append(1))
    return times


def assert_same_trials(workdir, undisturbed):
    """Every trial is complete, once, and left the rows of the sweep that nothing disturbed, byte for byte."""
    ours, theirs = read_trials(workdir).trials, read_trials(undisturbed).trials
    assert [(t["number"], t["state"], t["steps"]) for t in ours] == [(0, "complete", 20), (1, "complete", 20)]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("params", "value", "intermediate"):
            assert a[name] == b[name]
        metrics = Path("trials", f"{a['number']:04d}", workdirs.METRICS)
        assert (workdir / metrics).read_bytes() == (undisturbed / metrics).read_bytes()


def test_a_killed_sweep_goes_on_without_a_lost_or_doubled_trial(tmp_path, sweep_run, at_row, stale):
    config, space = tiny_runs.grid_sweep()
    at_row(12, kill)                        # in the first trial
    with pytest.raises(Killed):
        sweep.run(config, space, tmp_path / "sweep")
    assert not list(tmp_path.glob("sweep/trials/*/result.json"))
    stale(tmp_path / "sweep")
    sweep.run(config, space, tmp_path / "sweep")
    assert_same_trials(tmp_path / "sweep", sweep_run)


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_taken_over(tmp_path, sweep_run, monkeypatch):
    (config, space), workdir = tiny_runs.grid_sweep(), tmp_path / "sweep"
    monkeypatch.setattr(sweep_queue, "GRACE", 2)
    sweep_queue.begin(config, space, workdir, None, sweep_settings.check(config, space))
    metrics = workdir / "trials" / "0000" / workdirs.METRICS
    worker = subprocess.Popen([sys.executable, "-m", "cnnjax.experiments.sweep_worker", str(workdir)], cwd=ROOT,
                              env={**os.environ, "CNNJAX_CACHE": str(tmp_path)})
    while worker.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 12):
        time.sleep(0.005)
    worker.kill()
    assert worker.wait() == -9, "the worker ended before it was killed"
    sweep.run(config, space, workdir)
    assert_same_trials(workdir, sweep_run)


def test_a_stopped_sweep_puts_its_trial_back_into_the_queue(tmp_path, sweep_run, at_row):
    config, space = tiny_runs.grid_sweep()
    at_row(12, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        sweep.run(config, space, tmp_path / "sweep")
    begun = time.monotonic()
    sweep.run(config, space, tmp_path / "sweep")
    assert time.monotonic() - begun < sweep_queue.GRACE, "it waited for a worker that is gone"
    assert_same_trials(tmp_path / "sweep", sweep_run)


def test_a_worker_waits_for_the_folder_of_one_that_lives_after_all(tmp_path, sweep_run, monkeypatch):
    (config, space), workdir = tiny_runs.grid_sweep(), tmp_path / "sweep"
    tried = []

    def sleep(seconds):
        tried.append(seconds)
        if len(tried) == 2:
            holder.close()
    monkeypatch.setattr(sweep_worker.time, "sleep", sleep)
    (workdir / "trials" / "0000").mkdir(parents=True)
    holder = (workdir / "trials" / "0000" / ".lock").open("a+")
    fcntl.flock(holder, fcntl.LOCK_EX)
    sweep.run(config, space, workdir)
    assert len(tried) == 2
    assert_same_trials(workdir, sweep_run)


def test_pairs_that_cannot_be_run_are_told_and_passed_over(tmp_path, capsys, cleared):
    config = tiny_runs.sweep("sweep.sampler=grid")
    sweep.run(config, PAIRS, tmp_path / "sweep")
    trials = read_trials(tmp_path / "sweep").trials
    assert [t["state"] for t in trials] == ["complete", "fail", "complete", "complete"]
    assert len(cleared) == 4
    assert "batch_size" in trials[1]["reason"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial 1: ")]
    assert len(said) == 1
    assert said[0].startswith("trial 1: fail: cannot be run: config field 'batch_size': 2 images")
    assert trials[1]["reason"] in (tmp_path / "sweep" / "report.html").read_text().replace("&#x27;", "'")
    before = (tmp_path / "sweep" / "trials.json").read_bytes()
    sweep.run(config, PAIRS, tmp_path / "sweep")                    # it has ended
    assert (tmp_path / "sweep" / "trials.json").read_bytes() == before


def test_a_storage_that_goes_away_is_told_in_one_line(tmp_path, monkeypatch):
    one = Sweep(tmp_path)

    def lost(*arguments):
        one.storage.engine.connect().exec_driver_sql("drop table trials")
    monkeypatch.setattr(sweep_worker, "run_trial", lost)
    with pytest.raises(UserError, match=r"the storage of the sweep in .*no such table.*; run the same command again"):
        sweep_worker.work(tmp_path, None, one.space)


def test_a_conditional_sweep_runs_and_says_which_trial_had_what(tmp_path):
    config = tiny_runs.sweep("sweep.trials=4", "sweep.sampler=random", "sweep.pruner=none", "data.pad=2")

    def space(trial):
        if trial.suggest_categorical("model.name", ("resnet20", "plain20")) == "resnet20":
            trial.suggest_categorical("model.shortcut", ("A", "B"))
        if trial.number == 3:
            raise optuna.TrialPruned("for no reason")
    sweep.run(config, space, tmp_path / "sweep")
    found = read_trials(tmp_path / "sweep")
    assert [t["state"] for t in found.trials] == ["complete"] * 3 + ["pruned"]
    assert found.trials[3]["reason"] == "by the space for no reason"
    assert all(("model.shortcut" in t["params"]) == (t["params"]["model.name"] == "resnet20") for t in found.trials)
    assert {t["params"]["model.name"] for t in found.trials[:3]} == {"resnet20", "plain20"}, "choose another seed"
    best = configs.load(tmp_path / "sweep" / "best.json")
    configs.check(best, defaults.classification())
    with pytest.raises(UserError, match="another space"):
        sweep.run(config, RATES, tmp_path / "sweep")


@pytest.mark.slow
def test_fine_tuning_is_swept(tmp_path, classifier_run):
    config = tiny_runs.sweep("sweep.sampler=grid", "model.blocks=(1,1)", f"init.weights={classifier_run}")
    sweep.run(config, {"init.freeze_norm": CategoricalDistribution((True, False))}, tmp_path / "sweep")
    trials = read_trials(tmp_path / "sweep").trials
    assert [t["state"] for t in trials] == ["complete"] * 2
    assert configs.load(tmp_path / "sweep" / "best.json").init.weights == str(classifier_run)


def detector_sweep(*overrides):
    """Two trials of Faster R-CNN on the embedded set, scored twice on one image held out."""
    config = defaults.sweep(configs.load(tiny_runs.TINY_LADDER))
    config.detectors = ("faster_rcnn",)
    config.data.validation = 1
    config.faster_rcnn.training.eval_every = 5
    config.sweep.update(trials=2, sampler="random", pruner="none")
    for override in overrides:
        configs.set_field(config, *override.split("=", 1))
    return config, {"faster_rcnn.training.optimizer.learning_rate": FloatDistribution(0.001, 0.01)}


@pytest.mark.slow
def test_a_detector_is_swept_by_its_map_on_validation_images(tmp_path, capsys):
    config, space = detector_sweep()
    sweep.run(config, space, tmp_path / "sweep")
    found = read_trials(tmp_path / "sweep")
    assert (found.score, found.end) == ("validation_map", "max")
    assert [(t["state"], t["steps"], list(t["intermediate"])) for t in found.trials] == [
        ("complete", 10, ["5", "10"])] * 2
    for t in found.trials:
        assert t["value"] == max(t["intermediate"].values())
        assert 0 <= t["test_map"] <= 1
    assert "Best by validation map: trial " in capsys.readouterr().out
    best = configs.load(tmp_path / "sweep" / "best.json")
    configs.check(best, ladder_defaults.ladder())


@pytest.mark.parametrize(("override", "message"), [
    ("detectors=faster_rcnn,fast_rcnn", "a trial of a sweep is one detector"),
    ("detectors=rcnn", "found 'rcnn', which is no detector before all its stages are done"),
    ("faster_rcnn.training.optimizer.momentum=1.5", "faster_rcnn.training.optimizer.momentum"),
    ("sweep.pruner=some", "'sweep.pruner': found 'some', expected median, asha or none")])
def test_a_sweep_of_detectors_without_sense_is_refused(override, message):
    with pytest.raises(UserError) as error:
        sweep_settings.check(*detector_sweep(override))
    assert message in str(error.value)


def test_the_fields_of_sweeps_are_declared():
    configs.check(detector_sweep()[0], defaults.sweep(ladder_defaults.ladder()))
    for config in (tiny_runs.sweep(), detector_sweep()[0]):
        known = fields.declared(fields_of(config))
        assert {name for name in configs.flatten(config) if name not in known} == {
            name for name in configs.flatten(config) if name.startswith("model.") and name != "model.name"}


def test_a_score_that_is_no_number_ends_its_trial(tmp_path, monkeypatch):
    run = trainable.runs.run

    def spoilt(config, folder, *others, **named):
        result = run(config, folder, *others, **named)
        return {**result, "validation_error": float("nan")} if folder.name == "0001" else result
    monkeypatch.setattr(trainable.runs, "run", spoilt)
    config, space = tiny_runs.grid_sweep("steps=10")
    sweep.run(config, space, tmp_path / "sweep")
    trials = read_trials(tmp_path / "sweep").trials
    assert [t["state"] for t in trials] == ["complete", "pruned"]
    assert trials[1]["reason"] == "diverged: the validation error is nan"
    assert "NaN" not in (tmp_path / "sweep" / "trials.json").read_text()


def test_a_finished_sweep_tells_the_best_and_is_not_run_again(tmp_path, sweep_run):
    (config, space), workdir = tiny_runs.grid_sweep(), tmp_path / "sweep"
    shutil.copytree(sweep_run, workdir)
    trials = read_trials(workdir).trials
    assert [t["params"]["optimizer.learning_rate"] for t in trials] == [0.01, 0.1]
    for t in trials:
        folder = workdir / "trials" / f"{t['number']:04d}"
        rows = workdirs.read_rows(folder / workdirs.METRICS)
        assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, 21))
        assert json.loads((folder / "result.json").read_text())["validation_error"] == t["value"]
        assert t["intermediate"].keys() == {"10", "20"}

    best = configs.load(workdir / "best.json")
    configs.check(best, defaults.classification())
    assert best.optimizer.learning_rate == min(trials, key=lambda t: t["value"])["params"]["optimizer.learning_rate"]
    assert (workdir / "table.md").read_text().count("\n") == 2 + 2
    assert "data:image/png;base64" in (workdir / "report.html").read_text()

    before = (workdir / "trials.json").read_bytes()
    sweep.run(config, space, workdir, against=[workdir])     # nothing is left to train
    if importlib.util.find_spec("submitit"):
        launchers.slurm(sweep_worker.work, (workdir, None, None), 2, workdir, {"cluster": "debug"})
    assert (workdir / "trials.json").read_bytes() == before
    with pytest.raises(UserError, match=r"another config \(optimizer.momentum"):
        sweep.run(tiny_runs.grid_sweep("optimizer.momentum=0.5")[0], space, workdir)
    with pytest.raises(UserError, match="another space"):
        sweep.run(config, GRID, workdir)


def test_weak_trials_are_pruned_and_divergence_is_told(tmp_path):
    """The rates of a grid from good to absurd: asynchronous halving stops what is worse than the first, and the last
    one's loss is no number."""
    config = tiny_runs.sweep("sweep.sampler=grid", "sweep.pruner=asha", "steps=20", "eval_every=5")
    space = {"optimizer.learning_rate": CategoricalDistribution((0.05, 0.06, 1e-9, 1e-9, 1e30))}
    sweep.run(config, space, tmp_path / "sweep")
    found = read_trials(tmp_path / "sweep")
    trials = found.trials
    assert trials[0]["state"] == "complete"
    pruned = [t for t in trials[1:4] if t["state"] == "pruned"]
    assert pruned
    assert all(t["steps"] < 20 for t in pruned)
    assert trials[4]["state"] == "pruned"
    assert "at step 1, learning rate 1e+30" in trials[4]["reason"]
    header, body = search.table(found)
    assert header[-1] == "learning_rate"
    assert [row[1] for row in body if row[0] == "4"] == ["diverged"]


@pytest.mark.parametrize("end", ["min", "max"])
def test_equal_cost_cuts_where_the_cheapest_ended(end):
    sweeps = []
    for name, steps in (("dear", [20, 20, 20]), ("cheap", [20, 10, 10])):
        trials = [{"number": i, "state": "complete" if s == 20 else "pruned", "value": 0.3 - 0.1 * i, "last": 0.3,
                   "test_error": 0.5, "params": {}, "steps": s} for i, s in enumerate(steps)]
        sweeps.append((name, tiny_runs.sweep().sweep, search.Trials("validation_error", end, trials, {})))
    header, body = search.equal_cost(sweeps)
    rows = [dict(zip(header, row, strict=True)) for row in body]
    assert [(r["trials"], r["complete"], r["steps"]) for r in rows] == [("2", "2", "40"), ("3", "1", "40")]
    assert [r["best validation error %"] for r in rows] == ["20.00" if end == "min" else "30.00", "30.00"]


def test_a_search_for_the_highest_score_is_drawn_with_gaps(tmp_path):
    trials = [{"number": 0, "state": "complete", "value": 0.5, "last": 0.5, "params": {"a": 1, "b": "x"}},
              {"number": 1, "state": "complete", "value": 0.7, "last": 0.7, "params": {"b": "y"}, "test_map": 0.6},
              {"number": 2, "state": "fail", "value": None, "last": None, "params": {"a": 3}, "reason": "such"}]
    found = search.Trials("validation_map", "max", trials, {"b": 1.0})
    assert [t["number"] for t in search.ranked(found)] == [1, 0]
    header, body = search.table(found)
    assert header[:5] == ["trial", "outcome", "validation map %", "test map %", "steps"]
    assert [row[:4] for row in body] == [["1", "complete", "70.00", "60.00"], ["0", "complete", "50.00", "-"],
                                         ["2", "fail", "-", "-"]]
    assert all(path.stat().st_size > 1000 for path, _ in search.pictures(found, tmp_path / "figures"))


@pytest.mark.parametrize(("workers", "gpus", "expected"), [
    (2, 0, [{}, {}]),
    (2, 4, [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "1,3"}]),
    (2, 1, [{"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}] * 2),
])
def test_workers_share_the_gpus(monkeypatch, workers, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [launchers.share_of_gpus(i, workers, gpus) for i in range(workers)] == expected


def test_a_storage_out_of_reach_is_told_without_its_password(tmp_path):
    with pytest.raises(UserError) as error:
        sweep_queue.open_storage(Path(tmp_path), "sqlite:////nowhere/x.db")
    assert "unable to open database file" in str(error.value)
    with pytest.raises(UserError) as error:
        sweep_queue.open_storage(Path(tmp_path), "nonsense://user:secret@host/db")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("launcher", "extra"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, launcher, extra):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(UserError, match=rf"cnnjax\[{launcher}\]"):
        getattr(launchers, launcher)(print, (), 1, tmp_path, {})
