"""Determinism: the flag that a GPU needs is in the environment when a config asks for it."""

import os

import pytest

from cnnjax import cli, launch
from tests.conftest import ROOT, TINY


@pytest.mark.parametrize(("flags", "expected"), [
    ("", launch.DETERMINISTIC), ("--xla_cpu_x=1", f"--xla_cpu_x=1 {launch.DETERMINISTIC}"),
    ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false")])
def test_the_flag_joins_those_that_are_set(flags, expected):
    base = {"XLA_FLAGS": flags, "HOME": "/"}
    assert launch.deterministic(base) == {"XLA_FLAGS": expected, "HOME": "/"}
    assert base["XLA_FLAGS"] == flags


@pytest.mark.parametrize("asked", [True, False])
def test_a_config_sets_it_before_jax_starts(tmp_path, monkeypatch, asked):
    """Where training begins the environment carries the flag if, and only if, the config asks for it."""
    found = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XLA_FLAGS", "")

    def train(config, workdir):
        found.append(os.environ["XLA_FLAGS"])
        return {"test_error": 0.0, "parameters": 0, "images_per_second": 0.0}

    monkeypatch.setattr("cnnjax.classification.train", train)
    monkeypatch.setattr("cnnjax.classification.report", lambda workdir, answers: workdir / "report.html")
    arguments = ["train", "--config", str(TINY), "--workdir", str(tmp_path), f"--config.deterministic={asked}"]
    assert cli.main(arguments) == 0
    assert found == [launch.DETERMINISTIC if asked else ""]
