"""Several processes: the losses of one, one writer, and what becomes of the others when one is stopped or killed."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cnnjax import classification
from cnnjax.errors import UserError
from cnnjax.training import distributed
from cnnjax.training import workdir as workdirs
from tests import tiny_runs
from tests.conftest import ROOT, devices_of_cpu, free_port

# Batch norm over all devices, so that the number of devices changes nothing but the order of sums. What rounding that
# brings grows tenfold every five steps, faster at a higher rate: few steps at a small one are compared.
SETTINGS = ("model.blocks=(1,)", "sync_batch_norm=True", "log_every=1", "optimizer.learning_rate=0.001",
            "schedule.boundaries=(30,40)", "eval_every=3", "checkpoint_every=5")
STEPS = 6


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts the processes of a run with so many virtual devices each."""
    cache = tmp_path_factory.mktemp("cache")
    started = []

    def start_all(workdir, *overrides, processes=2, devices=2):
        port = free_port()
        environment = devices_of_cpu(devices) | {"CNNJAX_CACHE": str(cache)}
        run = [subprocess.Popen([sys.executable, "-m", "tests.training.run_process", f"localhost:{port}",
                                 str(processes), str(i), str(workdir), *SETTINGS, *overrides], cwd=ROOT,
                                env=environment, stderr=subprocess.PIPE, text=True) for i in range(processes)]
        started.extend(run)
        return run
    yield start_all
    for process in started:
        process.kill()


def finish(processes, timeout=600):
    """Waits for all; gives their exit statuses and what they said."""
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    return [process.returncode for process in processes], errors


def losses(workdir, split="train"):
    return [r["loss"] for r in workdirs.read_rows(workdir / workdirs.METRICS) if r["split"] == split]


def wait_for_rows(workdir, rows, processes):
    while len(losses(workdir)) < rows and all(p.poll() is None for p in processes):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    classification.train(tiny_runs.classifier(*SETTINGS, f"steps={STEPS}"), workdir)
    return workdir


@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 2), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_many_devices_and_processes_have_the_numbers_of_one(tmp_path, start, alone, processes, devices):
    """Losses, errors and the norms of gradients, updates and parameters: a sum for a mean, a share of the batch left
    out or taken twice, would be far beyond the tolerance at the first step."""
    statuses, errors = finish(start(tmp_path / "run", f"steps={STEPS}", processes=processes, devices=devices))
    assert statuses == [0] * processes, errors
    one, many = (workdirs.read_rows(workdir / workdirs.METRICS) for workdir in (alone, tmp_path / "run"))
    assert [(r["split"], r["step"]) for r in many] == [(r["split"], r["step"]) for r in one]    # one process writes
    assert len(many) == STEPS + 2
    for a, b in zip(many, one, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split", "step"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (name, a["step"])
    assert [r["examples"] for r in many if r["split"] == "test"] == [359, 359]


# ResNet-20 of the depth comparison on 4 and 8 devices.
@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_two_processes_make_the_depth_study_of_one(tmp_path, command, devices):
    settings = ("study.kinds=('resnet',)", "study.depths=(20,)", "diagnostics=False", "sync_batch_norm=True",
                "optimizer.learning_rate=0.0001", "schedule.boundaries=(30,40)", "schedule.warmup_steps=0", "steps=10",
                "log_every=1", "eval_every=5", "tensorboard=False")

    def study(workdir, devices, *flags):
        return command("depth", "--config", "configs/depth/digits.py", "--workdir", workdir, *flags,
                       *(f"--config.{setting}" for setting in settings), devices=devices)

    one = [study(tmp_path / "one", 1)]
    assert finish(one)[0] == [0]
    address = ("--coordinator", f"localhost:{free_port()}", "--processes", "2")
    two = [study(tmp_path / "two", devices, *address, "--process", str(i)) for i in range(2)]
    statuses, errors = finish(two)
    assert statuses == [0, 0], errors
    for split, count in (("train", 10), ("test", 2)):
        expected, found = (losses(tmp_path / run / "cells" / "resnet20-seed0", split) for run in ("one", "two"))
        assert len(expected) == len(found) == count
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_two_processes_of_the_command_train_and_report(tmp_path, command):
    address = ("--coordinator", f"localhost:{free_port()}", "--processes", "2")
    statuses, errors = finish([command("train", "--config", "tests/tiny_config.py", "--workdir", tmp_path, *address,
                                       "--process", str(i)) for i in range(2)])
    assert statuses == [0, 0], errors
    assert (tmp_path / "report.html").is_file()


# Last run on 2026-11-25: passed.
@pytest.mark.slow
def test_two_processes_measure_why_depth_hurts_and_both_end(tmp_path, command):
    """All take part in reading a checkpoint: one that had ended would abort the others."""
    address = ("--coordinator", f"localhost:{free_port()}", "--processes", "2")
    settings = ("study.kinds=('resnet',)", "study.depths=(20,)", "steps=10", "diagnostics=True")
    overrides = [f"--config.{setting}" for setting in settings]
    statuses, errors = finish([command("depth", "--config", "tests/faults/tiny_depth.py", "--workdir", tmp_path,
                                       *address, "--process", str(i), *overrides) for i in range(2)])
    assert statuses == [0, 0], errors
    assert (tmp_path / "why" / "resnet20-seed0.json").is_file()
    assert "Why depth hurts" in (tmp_path / "report.html").read_text()


@pytest.mark.slow               # four starts and half a minute without heartbeats; last run on 2026-11-24
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_ends_the_other_and_both_go_on(tmp_path, start, victim):
    workdir = tmp_path / "run"
    steps = "steps=2000"
    processes = start(workdir, steps)
    wait_for_rows(workdir, 25, processes)
    processes[victim].kill()
    killed = time.monotonic()
    _, error = processes[1 - victim].communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert processes[victim].wait() == -signal.SIGKILL
    assert processes[1 - victim].returncode not in (0, None)
    # Ours where the broken connection is noticed first, JAX's where the missing heartbeat is.
    assert "another process of this run is gone" in error or "another task died" in error

    processes = start(workdir, steps, devices=1)            # they go on, with other devices
    wait_for_rows(workdir, 45, processes)
    processes[1].send_signal(signal.SIGTERM)                # one is asked to stop: both save and stop at the same step
    statuses, errors = finish(processes)
    assert statuses == [143, 143], errors
    saved = [error.strip().splitlines()[-1] for error in errors]
    assert saved[0] == saved[1]
    assert "stopped by SIGTERM and saved at step" in saved[0]
    rows = [r["step"] for r in workdirs.read_rows(workdir / workdirs.METRICS) if r["split"] == "train"]
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) >= 45


@pytest.mark.parametrize(("arguments", "message"), [
    ((None, 2, 0), "need --coordinator HOST:PORT"),
    (("localhost", 2, 0), "expected HOST:PORT"),
    (("localhost:80", None, 0), "needs --processes N and --process I"),
    (("localhost:80", 2, 2), "--process 2: expected a number from 0 to 1"),
])
def test_mistaken_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(*arguments)


def test_one_process_is_left_alone():
    distributed.initialize(None)
    assert distributed.is_writer()


def test_the_others_wait_for_the_first_to_write_its_report(tmp_path):
    port = free_port()
    processes = [subprocess.Popen([sys.executable, "-m", "tests.training.slow_writer", f"localhost:{port}", str(i),
                                   str(tmp_path)], cwd=ROOT, env=devices_of_cpu(1), stderr=subprocess.PIPE, text=True)
                 for i in range(2)]
    statuses, errors = finish(processes)
    assert statuses == [0, 0], errors
