"""Studies killed at random moments end in the table of undisturbed ones."""

import random

import pytest

from tests.faults import harness


# Last run 2026-11-24: both passed, 24 kills.
@pytest.mark.slow
@pytest.mark.parametrize(("verb", "config", "kills"), [("depth", harness.DEPTH, 14), ("ladder", harness.FASTER, 10)])
def test_a_study_killed_again_and_again_ends_in_the_same_table(tmp_path, verb, config, kills):
    arguments = [harness.train(tmp_path / name, config=config, verb=verb) for name in ("whole", "killed")]
    harness.finish(harness.start(*arguments[0]))
    total = harness.rows(tmp_path / "whole")
    moments = harness.kill_at_random(arguments[1], tmp_path / "killed", total, kills, random.Random(kills))
    print(f"{verb}: {len(moments)} kills, at {'; '.join(moments)}")
    harness.finish(harness.start(*arguments[1]))
    harness.assert_same(tmp_path / "whole", tmp_path / "killed")
