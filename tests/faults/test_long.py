"""Long runs: nothing is compiled twice, and the memory does not grow."""

import time

import pytest

from cnnjax import classification
from cnnjax import config as configs
from tests.conftest import TINY, compilations
from tests.faults import harness
from tests.faults.harness import start, train


def test_nothing_is_compiled_in_steady_state(tmp_path):
    """Once an evaluation and a checkpoint have been, two epochs with two of each compile nothing."""
    config = configs.load(TINY, (
        "steps=240", "schedule.boundaries=(100,200)", "eval_every=60", "checkpoint_every=60", "log_every=20"))
    steady = []

    def on_eval(step, scores):
        if step == 120:
            steady.append(len(compiled))

    with compilations() as compiled:
        classification.train(config, tmp_path / "run", on_eval=on_eval)
    assert steady[0] > 0, "the counter does not count"
    assert len(compiled) == steady[0]


def memory_over(process, amount):
    """Pairs of `amount()` done and MB of memory, ten a second until the process ends."""
    samples = []
    while process.poll() is None:
        samples.append((amount(), harness.memory(process)))
        time.sleep(0.1)
    harness.finish(process)
    return [(done, memory) for done, memory in samples if memory]


def early_and_late(samples, first, total):
    """MB soon after `first` of `total`, and near the end: medians."""
    def median(low, high):
        chosen = sorted(memory for done, memory in samples if low <= done <= high)
        assert chosen, f"no sample between {low} and {high}"
        return chosen[len(chosen) // 2]
    return median(first, first + total // 10), median(total * 9 // 10, total)


# Both were last run on 2026-11-24: passed; the figures stand in docs/reliability.md.
@pytest.mark.slow
def test_the_memory_of_20000_steps_does_not_grow(tmp_path):
    """By no more than 10 MB between step 2,000 and the end, with 20 evaluations and 200 checkpoints."""
    workdir = tmp_path / "run"
    process = start(*train(workdir, "steps=20000", "schedule.boundaries=(10000,)", "eval_every=1000",
                           "checkpoint_every=100", "log_every=20", "tensorboard=True"))
    samples = memory_over(process, lambda: 20 * harness.rows(workdir))
    early, late = early_and_late(samples, 2000, 20_000)
    print(f"memory: {early:.1f} MB near step 2,000, {late:.1f} MB near step 20,000")
    assert late - early <= 10


@pytest.mark.slow
def test_the_memory_of_a_long_sweep_does_not_grow(tmp_path):
    """By no more than 2 MB a trial between the sixth and the last of twenty-four: each traces its programs anew."""
    workdir = tmp_path / "sweep"
    process = start(*train(workdir, config="tests/faults/tiny_sweep.py", verb="sweep"))
    samples = memory_over(process, lambda: len(list(workdir.glob("trials/*/result.json"))))
    early, late = early_and_late(samples, 6, 24)
    print(f"memory: {early:.1f} MB near trial 6, {late:.1f} MB near trial 24")
    assert late - early <= 36
