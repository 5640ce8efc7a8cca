"""The bench: contenders in turn, rows and ratios of a real measurement, and the environment of a fast process."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cnnjax import launch
from cnnjax.bench import data, networks, verdict
from cnnjax.bench import input as inputs
from cnnjax.errors import UserError
from tests.tiny_config import get_config


def test_contenders_step_in_turn_and_are_closed():
    log = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def step(self):
            log.append(self.name)
            return float(len(log))

        def close(self):
            log.append(f"{self.name} closed")

    assert networks.measure({"a": Fake("a"), "b": Fake("b")}, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert log == ["a", "b", "a", "b", "a closed", "b closed"]


def test_a_bench_measures_plain_and_fast_steps():
    rows = networks.run("train", ["lenet5"], batch=8, rounds=2)
    assert [row["what"] for row in rows][:2] == ["plain Flax", "cnnjax"]        # PyTorch knows no LeNet-5
    assert len(rows) == 2
    for row in rows:
        assert row["ratio"] == pytest.approx(rows[0]["seconds"] / row["seconds"])
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert 0 < row["matmul"] < 1
    assert [len(line) for line in networks.table(rows)] == [len(networks.HEADER)] * 2


def test_a_verdict_says_who_is_ahead_and_what_the_rounds_disagree_about():
    assert verdict.against("a", [1.0, 1.1, 1.2], [2.0, 2.2, 2.4]) == "a: ahead, 2.00 of PyTorch's rate"
    assert verdict.against("a", [2.0, 2.0, 2.2], [1.0, 1.0, 1.1]) == "a: behind, 0.50 of PyTorch's rate"
    noisy = verdict.against("a", [1.0, 1.0, 1.2, 0.8], [1.1, 0.9, 1.0, 1.1], "torchvision")
    assert noisy == "a: within noise, 1.05 of torchvision's rate"
    rows = [{"network": "n", "what": what, "times": times} for what, times in
            (("plain Flax", [4.0, 4.0]), ("cnnjax", [1.0, 1.0]), ("PyTorch", [2.0, 2.0]))]
    assert networks.verdicts(rows) == ["n, plain Flax: behind, 0.50 of PyTorch's rate",
                                       "n, cnnjax: ahead, 2.00 of PyTorch's rate"]
    assert networks.verdicts(rows[:2]) == []


def test_the_head_of_a_bench_names_the_cpu_and_its_vectors():
    info = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: sse2 avx avx2{}\n\nprocessor\t: 1\nflags\t\t: sse2\n"
    assert verdict.cpu(info.format("")).startswith("Some CPU, AVX2, vectors of 256 bits, ")
    assert "AVX-512, vectors of 512 bits" in verdict.cpu(info.format(" avx512f"))
    assert "vector width unknown" in verdict.cpu("")


def test_input_is_measured_from_files_to_batches(monkeypatch):
    monkeypatch.setattr(inputs, "BATCHES", 1)
    monkeypatch.setattr(inputs, "AHEAD", 1)
    rows = inputs.run(rounds=2)
    assert rows[0]["what"] == "cnnjax"
    assert len(rows[0]["times"]) == 2
    assert rows[0]["images_per_second"] * rows[0]["seconds"] == pytest.approx(inputs.BATCH)
    slow = [{"what": "cnnjax", "times": [1.0]}, {"what": "PyTorch", "times": [0.5]}]
    assert inputs.verdicts(slow) == ["input: behind, 0.50 of PyTorch's rate"]
    assert inputs.verdicts(slow[:1]) == []


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match="unknown kind 'speed'; known are train"):
        networks.run("speed")
    with pytest.raises(UserError, match="did you mean 'googlenet'"):
        networks.run("train", ["goglenet"])


def test_environment_adds_what_is_missing_and_keeps_what_is_set():
    result = launch.environment(3, {"A": "b"})
    assert result["A"] == "b"
    assert result["XLA_FLAGS"] == "--xla_force_host_platform_device_count=3"
    mine = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "GLIBC_TUNABLES": "glibc.malloc.check=1"}
    result = launch.environment(3, mine)
    assert result["XLA_FLAGS"] == mine["XLA_FLAGS"]
    assert result["GLIBC_TUNABLES"].split(":")[0] == "glibc.malloc.check=1"
    assert launch.environment(3, result) == result


def test_environment_gives_a_process_its_devices():
    code = "import jax; print(jax.local_device_count())"
    out = subprocess.run([sys.executable, "-c", code], env=launch.environment(3, {"JAX_PLATFORMS": "cpu"}),
                         capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "3"


def test_environment_gives_several_devices_threads_to_spare():
    """Each may hold one that waits for the others; the last one needs two. What the user set stands."""
    assert int(launch.environment(2, {})["PJRT_NPROC"]) >= 4
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    assert int(launch.environment(2, eight)["PJRT_NPROC"]) >= 16
    assert launch.environment(2, {"PJRT_NPROC": "3"})["PJRT_NPROC"] == "3"
    assert "PJRT_NPROC" not in launch.environment(1, {})


def test_data_is_measured_beside_the_step(tmp_path):
    config = get_config()
    config.model.blocks = (1,)              # little to compile
    rows = {row["what"]: row for row in data.run(config, repeats=2)}
    assert rows["read from the cache"]["images_per_second"] == pytest.approx(
        1797 / rows["read from the cache"]["seconds"])
    batch, step = rows["shuffle, crop, flip and normalise a batch"], rows["training step, with that"]
    for row in (batch, step):               # which of two so short times is the longer is the machine's affair
        assert row["images_per_second"] * row["seconds"] == pytest.approx(16)

    for split, count in (("train", 24), ("test", 2)):
        for i in range(count):
            file = tmp_path / split / f"class{i % 2}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20 + i, 24, 3), i, np.uint8)).save(file)
    config.data.update(source="folder", path=str(tmp_path), streamed=True, image_size=16)
    *rates, waiting = data.run(config, repeats=2)
    assert [row["what"] for row in rates] == ["decode and crop a batch", "training step", "both"]
    assert all(row["images_per_second"] * row["seconds"] == pytest.approx(16) for row in rates)
    assert 0 <= waiting["share"] <= 1
    assert len(data.table([*rates, waiting])) == 4
