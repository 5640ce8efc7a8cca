"""The loop: what it writes, and that a run which was killed or stopped gives what an undisturbed one gives."""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest

from cnnjax import classification, cli, networks
from cnnjax.data import batching
from cnnjax.errors import Diverged, UserError
from cnnjax.training import workdir as workdirs
from cnnjax.training.checkpoints import leaves
from tests import tiny_runs
from tests.conftest import ROOT, Killed, kill

LONG = ("steps=300", "schedule.boundaries=(100,200)", "eval_every=50", "checkpoint_every=10", "log_every=5")


def final_parameters(workdir):
    run = networks.load_run(workdir)
    assert run.step == run.config.steps
    return leaves(run.variables)


def assert_same_run(one, other):
    """Byte-equal metrics and bit-equal states."""
    assert (one / workdirs.METRICS).read_bytes() == (other / workdirs.METRICS).read_bytes()
    a, b = final_parameters(one), final_parameters(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def rows_written(workdir):
    path = workdir / workdirs.METRICS
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_rows(process, workdir, rows):
    while rows_written(workdir) < rows and process.poll() is None:
        time.sleep(0.002)


def arguments(workdir, *overrides):
    return ("train", "--config", "tests/tiny_config.py", "--workdir", workdir, *(f"--config.{o}" for o in overrides))


@pytest.mark.parametrize("row", [1, 3])
def test_killed_and_run_again_gives_the_same_bits(tmp_path, classifier_run, tiny, at_row, row):
    """Killed before the first row, and before that of an evaluation."""
    at_row(row, kill)
    with pytest.raises(Killed):
        classification.train(tiny(), tmp_path / "run")
    assert rows_written(tmp_path / "run") == row - 1
    classification.train(tiny(), tmp_path / "run")
    assert_same_run(classifier_run, tmp_path / "run")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, classifier_run, at_row, signum, status):
    monkeypatch.chdir(ROOT)
    at_row(2, lambda: signal.raise_signal(signum))
    command = [str(argument) for argument in arguments(tmp_path / "run")]
    assert cli.main(command) == status
    said = capsys.readouterr().err
    assert f"stopped by {signum.name} and saved at step" in said
    assert "run the same command again to go on" in said
    assert rows_written(tmp_path / "run") < rows_written(classifier_run)
    assert cli.main(command) == 0
    assert_same_run(classifier_run, tmp_path / "run")


# Processes: long enough to be stopped in the midst, between two checkpoints

@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    classification.train(tiny_runs.classifier(*LONG), workdir)
    return workdir


# The longer one was last run on 2026-11-24.
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_process_killed_at_random_moments_gives_the_same_bits(tmp_path, undisturbed, command, kills):
    rng = random.Random(kills)
    total = rows_written(undisturbed)
    for moment in sorted(rng.sample(range(1, total), kills)):
        process = command(*arguments(tmp_path / "run", *LONG))
        wait_for_rows(process, tmp_path / "run", moment)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    classification.train(tiny_runs.classifier(*LONG), tmp_path / "run")
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143),
                                                pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_a_process_that_gets_a_signal_saves_and_ends(tmp_path, undisturbed, command, signum, status):
    workdir = tmp_path / "run"
    process = command(*arguments(workdir, *LONG))
    wait_for_rows(process, workdir, 7)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    classification.train(tiny_runs.classifier(*LONG), workdir)
    assert_same_run(undisturbed, workdir)


# What a run leaves

@pytest.fixture
def finished(tmp_path, classifier_run):
    """A finished run of the test's own."""
    return shutil.copytree(classifier_run, tmp_path / "finished")


def test_a_run_leaves_what_it_promises(finished):
    rows = workdirs.read_rows(finished / workdirs.METRICS)
    train = [r for r in rows if r["split"] == "train"]
    assert [r["step"] for r in train] == [5, 10, 15, 20]
    assert [r["step"] for r in rows if r["split"] == "test"] == [10, 20]
    np.testing.assert_allclose([r["learning_rate"] for r in train], [0.1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert {"loss", "error", "grad_norm", "param_norm", "update_norm"} <= train[0].keys()
    result = json.loads((finished / "result.json").read_text())
    assert result["test_error"] == rows[-1]["error"]
    assert result["test_images"] == 359


def test_a_finished_run_is_not_trained_again(finished):
    before = (finished / workdirs.METRICS).read_bytes()
    config = workdirs.read_config(finished)
    classification.train(config, finished)
    assert (finished / workdirs.METRICS).read_bytes() == before


def test_evaluation_of_the_checkpoint_is_the_last_row(finished):
    row = classification.evaluate(finished, "test")
    last = workdirs.read_rows(finished / workdirs.METRICS)[-1]
    assert row == pytest.approx(last)


def test_a_row_that_was_cut_off_is_not_read(tmp_path):
    path = tmp_path / workdirs.METRICS
    path.write_text('{"step": 5, "split": "train"}\n{"step": 10, "spl')
    assert workdirs.read_rows(path) == [{"step": 5, "split": "train"}]
    rows = workdirs.Rows(path, step=5)
    rows.append({"step": 10})
    rows.close()
    assert [r["step"] for r in workdirs.read_rows(path)] == [5, 10]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny):
    with pytest.raises(Diverged, match=r"the \w+ is (nan|inf) at step \d+, learning rate 1e\+30; the last good"):
        classification.train(tiny("optimizer.learning_rate=1e30"), tmp_path / "run")


def test_another_config_is_refused_with_the_fields_that_differ(finished, tiny):
    with pytest.raises(UserError, match=r"another config \(optimizer.momentum: 0.9 there, 0.5 here\)"):
        classification.train(tiny("optimizer.momentum=0.5"), finished)


def test_a_workdir_in_use_is_refused(tmp_path, tiny):
    with workdirs.claim(tmp_path, tiny()), pytest.raises(UserError, match="is in use by process"), \
            workdirs.claim(tmp_path, tiny()):
        pass


@pytest.mark.parametrize(("override", "message"), [
    ("batch_size=0", "'batch_size': found 0, expected at least 1"),
    ("steps=0", "'steps': found 0"),
    ("optimizer.momentum=1.0", "'optimizer.momentum': found 1.0"),
    ("optimizer.weight_decay=-1.0", "'optimizer.weight_decay': found -1.0"),
    ("optimizer.learning_rate=-0.1", "'optimizer.learning_rate': found -0.1"),
    ("schedule.name=stairs", "'schedule.name': found 'stairs', expected piecewise"),
    ("model.name=resnet21", "did you mean"),
    ("model.depth=20", "has no field 'depth'"),
    ("dtype=float16", "'dtype': found 'float16'"),
])
def test_a_config_that_cannot_run_is_refused(tmp_path, tiny, override, message):
    with pytest.raises(UserError, match=message):
        classification.train(tiny(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_evaluations_and_checkpoints_need_not_divide_the_run(tmp_path, tiny):
    """A row each 7 of 20 steps, a dispatch of 6, an evaluation each 9: the rows are means over the same steps."""
    small = ("model.blocks=(1,)", "optimizer.learning_rate=0.001")      # two programs, whose rounding may differ
    odd = tiny("log_every=7", "steps_per_dispatch=6", "eval_every=9", "checkpoint_every=11", *small)
    each = tiny("log_every=1", *small)
    classification.train(odd, tmp_path / "odd")
    classification.train(each, tmp_path / "each")
    rows, single = (workdirs.read_rows(tmp_path / name / workdirs.METRICS) for name in ("odd", "each"))
    losses = [row["loss"] for row in single if row["split"] == "train"]
    assert len(losses) == 20
    found = {row["step"]: row["loss"] for row in rows if row["split"] == "train"}
    means = {7: np.mean(losses[:7]), 14: np.mean(losses[7:14]), 20: np.mean(losses[14:])}
    assert found == {step: pytest.approx(mean, rel=1e-5) for step, mean in means.items()}
    assert [row["step"] for row in rows if row["split"] == "test"] == [9, 18, 20]


def test_a_streamed_set_gives_the_run_of_one_on_the_device(tmp_path, tiny, monkeypatch):
    """Over few steps at a small rate, so that rounding, which is other, has not grown."""
    config = tiny("model.blocks=(1,)", "steps=5", "log_every=1", "eval_every=5", "optimizer.learning_rate=0.001",
                  "schedule.boundaries=()")
    classification.train(config, tmp_path / "on_device")
    monkeypatch.setattr(batching, "fits", lambda images: False)
    classification.train(config, tmp_path / "streamed")
    ours, theirs = (workdirs.read_rows(tmp_path / name / workdirs.METRICS) for name in ("streamed", "on_device"))
    assert len(ours) == len(theirs) == 6
    for a, b in zip(ours, theirs, strict=True):
        assert (a.keys(), a["step"], a["split"]) == (b.keys(), b["step"], b["split"])
        for name in a.keys() - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
