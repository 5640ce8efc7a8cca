"""Sweeps: what a space may hold, who gets which trial, and that a killed sweep neither loses nor doubles one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs
from configs import defaults
from experiments import sweep
from tests import tiny_runs
from tests.conftest import ROOT, Killed, kill

RATES = {"optimizer.learning_rate": FloatDistribution(1e-3, 0.1, log=True)}
GRID = {"optimizer.learning_rate": CategoricalDistribution((0.01, 0.1)),
        "optimizer.momentum": FloatDistribution(0.5, 0.9, step=0.4)}


# The space

def test_a_grid_is_every_combination_once():
    points = sweep.grid({**GRID, "seed": IntDistribution(3, 7, step=2)})
    assert len(points) == 2 * 2 * 3
    assert points[0] == {"optimizer.learning_rate": 0.01, "optimizer.momentum": 0.5, "seed": 3}
    assert points[-1] == {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "seed": 7}
    assert len({tuple(p.values()) for p in points}) == len(points)


@pytest.mark.parametrize(("overrides", "space", "message"), [
    (("sweep.sampler=tp",), RATES, "'sweep.sampler': found 'tp', expected one of tpe, random, grid"),
    (("sweep.pruner=some",), RATES, "'sweep.pruner': found 'some'"),
    (("sweep.trials=0",), RATES, "'sweep.trials': found 0"),
    (("data.validation=0",), RATES, "'data.validation': found 0; a sweep chooses"),
    (("population=2",), RATES, "'population': found 2"),
    ((), {}, "is empty"),
    ((), {"optimizer.learningrate": FloatDistribution(0, 1)}, "did you mean 'optimizer.learning_rate'"),
    ((), {"optimizer.momentum": FloatDistribution(0, 1)}, "'optimizer.momentum': found 1.0, expected at least 0"),
    ((), {"model.name": CategoricalDistribution(("resnet20", "resnet21"))}, "did you mean"),
    ((), {"optimizer.momentum": (0, 0.9)}, "space() has tuple for 'optimizer.momentum'"),
    (("sweep.sampler=grid",), RATES, "a range without steps for 'optimizer.learning_rate'"),
])
def test_a_sweep_without_sense_is_refused(overrides, space, message):
    with pytest.raises(UserError) as error:
        sweep.check(tiny_runs.sweep(*overrides), space)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["def get_config(): pass", "def space(): return 3"])
def test_a_file_without_a_space_is_named(tmp_path, text):
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(UserError, match=r"file.py: .*space"):
        sweep.load_space(tmp_path / "file.py")


def test_the_project_s_sweeps_can_be_run():
    from configs.sweep import digits
    sweep.check(digits.get_config(), digits.space())
    configs.check(digits.get_config(), defaults.sweep())


# Who gets which trial

@pytest.fixture
def queued(tmp_path):
    """A storage with three queued trials, and a function that takes one."""
    (tmp_path / "trials").mkdir()
    storage = sweep.open_storage(tmp_path, None)
    study = optuna.create_study(storage=storage, study_name="s")
    for _ in range(4):
        study.enqueue_trial({})
    beats = {}
    return study, storage, lambda: sweep.take(study, storage, tmp_path, 3, beats)


def test_each_trial_is_taken_once_and_given_up_ones_again(queued):
    study, _, take = queued
    claims = [take() for _ in range(4)]
    assert [c.number for c in claims[:3]] == [0, 1, 2]
    assert claims[3] is None                        # the fourth entry is beyond the sweep's three
    claims[1].lock.close()                          # as when its process is killed
    again = take()
    assert again.number == 1
    assert again.trial_id == claims[1].trial_id
    study.tell(1, 0.5)
    again.lock.close()
    assert take() is None                           # finished
    assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.RUNNING,
                                               TrialState.WAITING]


def test_another_machine_s_trial_is_taken_when_it_gives_no_sign_of_life(queued, monkeypatch):
    _, storage, take = queued
    claims = [take() for _ in range(3)]
    claims[2].lock.close()
    storage.set_trial_user_attr(claims[2].trial_id, "worker", "elsewhere:boot:/runs:1:abc")
    assert take() is None
    monkeypatch.setattr(sweep, "GRACE", -1)
    storage.set_trial_user_attr(claims[2].trial_id, "beat", 1)
    assert take() is None                           # a sign of life since the last look
    assert take().number == 2


def test_a_worker_that_was_given_up_notices(queued, monkeypatch):
    _, storage, take = queued
    monkeypatch.setattr(sweep, "BEAT", 0.05)
    claim = take()
    with sweep._beating(storage, claim) as lost:
        deadline = time.monotonic() + 20
        while "beat" not in storage.get_trial_user_attrs(claim.trial_id) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not lost.is_set()
        storage.set_trial_user_attr(claim.trial_id, "worker", "another")
        assert lost.wait(20)


# Whole sweeps

def assert_same_trials(workdir, undisturbed):
    """Every trial is complete, once, and left the rows of the sweep that nothing disturbed, byte for byte."""
    ours, theirs = sweep.read_trials(workdir), sweep.read_trials(undisturbed)
    assert [(t["number"], t["state"], t["steps"]) for t in ours] == [(0, "complete", 40), (1, "complete", 40)]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("params", "value", "intermediate"):
            assert a[name] == b[name]
        metrics = Path("trials", f"{a['number']:04d}", workdirs.METRICS)
        assert (workdir / metrics).read_bytes() == (undisturbed / metrics).read_bytes()


def test_a_killed_sweep_goes_on_without_a_lost_or_doubled_trial(tmp_path, sweep_run, at_row):
    config, space = tiny_runs.grid_sweep()
    at_row(12, kill)                        # in the first trial
    with pytest.raises(Killed):
        sweep.run(config, space, tmp_path / "sweep")
    assert not list(tmp_path.glob("sweep/trials/*/result.json"))
    sweep.run(config, space, tmp_path / "sweep")
    assert_same_trials(tmp_path / "sweep", sweep_run)


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_taken_over(tmp_path, sweep_run):
    (config, space), workdir = tiny_runs.grid_sweep(), tmp_path / "sweep"
    sweep.check(config, space)
    with sweep._prepared(config, workdir):
        study = sweep.open_study(workdir, config, None)
        sweep._same_sweep(study, config, space)
        for _ in range(2):
            study.enqueue_trial({})
    metrics = workdir / "trials" / "0000" / workdirs.METRICS
    worker = subprocess.Popen([sys.executable, "-m", "experiments.sweep", str(workdir)], cwd=ROOT,
                              env={**os.environ, "CNNJAX_CACHE": str(tmp_path)})
    while worker.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 12):
        time.sleep(0.005)
    worker.kill()
    assert worker.wait() == -9, "the worker ended before it was killed"
    sweep.run(config, space, workdir)
    assert_same_trials(workdir, sweep_run)


def test_a_finished_sweep_tells_the_best_and_is_not_run_again(tmp_path, sweep_run):
    (config, space), workdir = tiny_runs.grid_sweep(), tmp_path / "sweep"
    shutil.copytree(sweep_run, workdir)
    trials = sweep.read_trials(workdir)
    assert [t["params"]["optimizer.learning_rate"] for t in trials] == [0.01, 0.1]
    for t in trials:
        folder = workdir / "trials" / f"{t['number']:04d}"
        rows = workdirs.read_rows(folder / workdirs.METRICS)
        assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, 41))
        assert json.loads((folder / "result.json").read_text())["validation_error"] == t["value"]
        assert t["intermediate"].keys() == {"10", "20", "30", "40"}

    best = configs.load(workdir / "best.json")
    configs.check(best, defaults.classification())
    assert best.optimizer.learning_rate == min(trials, key=lambda t: t["value"])["params"]["optimizer.learning_rate"]
    assert (workdir / "table.md").read_text().count("\n") == 2 + 2
    assert "data:image/png;base64" in (workdir / "report.html").read_text()

    before = (workdir / "trials.json").read_bytes()
    sweep.run(config, space, workdir, against=[workdir])     # nothing is left to train
    if importlib.util.find_spec("submitit"):
        sweep.launch_slurm(workdir, 2, None, {"cluster": "debug"})
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
    trials = sweep.read_trials(tmp_path / "sweep")
    assert trials[0]["state"] == "complete"
    pruned = [t for t in trials[1:4] if t["state"] == "pruned"]
    assert pruned
    assert all(t["steps"] < 20 for t in pruned)
    assert trials[4]["state"] == "pruned"
    assert "at step 1, learning rate 1e+30" in trials[4]["reason"]
    header, body = sweep.table(trials)
    assert header[-1] == "learning_rate"
    assert [row[1] for row in body if row[0] == "4"] == ["diverged"]


def test_equal_cost_cuts_where_the_cheapest_ended(tmp_path):
    for name, steps in (("dear", [20, 20, 20]), ("cheap", [20, 10, 10])):
        folder = tmp_path / name
        folder.mkdir()
        workdirs.write(folder / "config.json", configs.dump(tiny_runs.sweep()))
        trials = [{"number": i, "state": "complete" if s == 20 else "pruned", "value": 0.3 - 0.1 * i, "last": 0.3,
                   "test_error": 0.5, "params": {}, "steps": s} for i, s in enumerate(steps)]
        workdirs.write(folder / "trials.json", json.dumps({"trials": trials, "importance": {}}))
    header, body = sweep.equal_cost([tmp_path / "dear", tmp_path / "cheap"])
    rows = [dict(zip(header, row, strict=True)) for row in body]
    assert [(r["trials"], r["complete"], r["steps"]) for r in rows] == [("2", "2", "40"), ("3", "1", "40")]
    assert [r["best validation err %"] for r in rows] == ["20.00", "30.00"]


@pytest.mark.parametrize(("workers", "gpus", "expected"), [
    (2, 0, [{}, {}]),
    (2, 4, [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "1,3"}]),
    (2, 1, [{"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}] * 2),
])
def test_workers_share_the_gpus(monkeypatch, workers, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [sweep.worker_environment(i, workers, gpus) for i in range(workers)] == expected


def test_a_storage_out_of_reach_is_told_without_its_password(tmp_path):
    with pytest.raises(UserError) as error:
        sweep.open_storage(Path(tmp_path), "sqlite:////nowhere/x.db")
    assert "unable to open database file" in str(error.value)
    with pytest.raises(UserError) as error:
        sweep.open_storage(Path(tmp_path), "nonsense://user:secret@host/db")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("launcher", "extra"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, launcher, extra):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(UserError, match=rf"cnnjax\[{launcher}\]"):
        getattr(sweep, f"launch_{launcher}")(tmp_path, 1, None, {})
