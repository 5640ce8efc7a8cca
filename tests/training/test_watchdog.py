"""A run whose devices no longer answer ends with a line, and the same command goes on from its last checkpoint."""

import subprocess
import sys
import threading
import time

import pytest

from cnnjax import classification
from cnnjax.training import distributed, watchdog
from tests.conftest import ROOT
from tests.training.test_loop import assert_same_run


@pytest.fixture
def stalled(monkeypatch):
    """Told the seconds of a wait that took too long, which here is under a tenth of a second."""
    monkeypatch.setattr(watchdog, "TICK", 0.01)
    monkeypatch.setattr(watchdog, "LEAST", 0.05)
    told: list[float] = []
    event = threading.Event()
    return told, event, lambda seconds: (told.append(seconds), event.set())


def test_a_wait_that_takes_too_long_is_told_once(stalled):
    told, event, tell = stalled
    with watchdog.watchdog(tell) as wait:
        with wait():
            pass
        with wait():
            assert event.wait(10)
            time.sleep(0.05)
    assert len(told) == 1
    assert 0.05 < told[0] < 0.1


@pytest.mark.parametrize("waits", [(0.2,), (0.1, 0.3), ()])
def test_the_first_wait_and_one_of_its_kind_may_take_their_time(stalled, waits):
    """And between two waits any time may pass."""
    told, _, tell = stalled
    with watchdog.watchdog(tell) as wait:
        for seconds in waits:
            with wait():
                time.sleep(seconds)
        time.sleep(0.2)
    assert told == []


def test_a_run_that_stalls_ends_and_goes_on(tmp_path, classifier_run, tiny):
    done = subprocess.run([sys.executable, "-m", "tests.training.stalled_process", tmp_path / "run"], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == distributed.LOST, done.stderr
    assert done.stderr.splitlines()[-1].startswith("cnnjax: the devices have not answered for")
    assert done.stderr.endswith(f"go on from the checkpoint of step 5 in {tmp_path / 'run'}\n")
    classification.train(tiny(), tmp_path / "run")
    assert_same_run(classifier_run, tmp_path / "run")
