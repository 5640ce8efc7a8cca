"""Runs that are disturbed, one fault after another: each goes on to the bits of an undisturbed run, or refuses in one
line, and what was finished stays."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import classification, classifier
from cnnjax import config as configs
from cnnjax.errors import Diverged, UserError
from cnnjax.training import workdir as workdirs
from tests.conftest import TINY
from tests.faults import harness
from tests.faults.harness import finish, start, train


def config_of(*overrides):
    return configs.load(TINY, overrides)


@pytest.fixture
def half(tmp_path, classifier_run):
    """A run of the same config that came to step 20, without the end: checkpoints of steps 15 and 20 and no result."""
    workdir = tmp_path / "run"
    shutil.copytree(classifier_run, workdir)
    (workdir / "result.json").unlink()
    assert checkpoints(workdir) == ["step_15", "step_20"]
    return workdir


def checkpoints(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").glob("step_*"))


def parts(folder):
    """The files of a checkpoint, the largest first."""
    return sorted((f for f in folder.glob("**/*") if f.is_file()), key=lambda f: -f.stat().st_size)


# Checkpoints and files torn

def truncate(folder):
    os.truncate(parts(folder)[0], parts(folder)[0].stat().st_size // 2)


def flip_bit(file, rng):
    data = bytearray(file.read_bytes()) or bytearray(1)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def flip_bits(folder, count):
    rng = random.Random(count)
    for _ in range(count):
        flip_bit(rng.choice(parts(folder)[:2]), rng)


def empty(folder):
    for file in parts(folder):
        file.write_bytes(b"")


def lose_metadata(folder):
    for file in folder.glob("**/_*METADATA"):
        file.unlink()


DAMAGES = {
    "cut in half": truncate, "a hundred bits flipped": lambda folder: flip_bits(folder, 100),
    "all files empty": empty, "its largest file gone": lambda folder: parts(folder)[0].unlink(),
    "its metadata gone": lose_metadata, "its arrays gone": lambda folder: shutil.rmtree(folder / "state"),
    "its host part gone": lambda folder: shutil.rmtree(folder / "host"),
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "garbage": lambda folder: [f.write_bytes(b"garbage" * 9) for f in parts(folder)],
    "unfinished": lambda folder: folder.rename(folder.with_name(folder.name + ".orbax-checkpoint-tmp")),
}
QUICK = ("cut in half", "a hundred bits flipped", "unfinished")


# All of them were last run on 2026-11-24: passed.
@pytest.mark.parametrize("damage", [pytest.param(d, marks=() if d in QUICK else pytest.mark.slow) for d in DAMAGES])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(half, classifier_run, damage):
    DAMAGES[damage](half / "checkpoints" / "step_20")
    classification.train(config_of(), half)
    harness.assert_same(classifier_run, half)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_of_a_checkpoint_changes_nothing(half, classifier_run, seed):
    """Wherever it is: in the arrays it is found by the checksum, elsewhere it makes the checkpoint unreadable, or is
    in what nobody reads."""
    rng = random.Random(seed)
    flip_bit(rng.choice(parts(half / "checkpoints" / "step_20")), rng)
    classification.train(config_of(), half)
    harness.assert_same(classifier_run, half)


def test_when_no_checkpoint_is_whole_the_run_says_so_and_keeps_its_rows(half):
    for name in checkpoints(half):
        empty(half / "checkpoints" / name)
    before = (half / workdirs.METRICS).read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint can be read: .*step_20.*; remove .* to start again"):
        classification.train(config_of(), half)
    assert (half / workdirs.METRICS).read_bytes() == before


def test_rows_cut_off_and_files_of_another_time(half, classifier_run):
    """The last row half written, and every file from a clock that was set far back or forth."""
    shutil.rmtree(half / "checkpoints" / "step_20")
    with (half / workdirs.METRICS).open("ab") as file:
        file.write(b'{"step": 25, "spl')
    for i, file in enumerate(half.glob("**/*")):
        os.utime(file, (0, 0) if i % 2 else (2**32, 2**32))
    classification.train(config_of(), half)
    harness.assert_same(classifier_run, half)


def test_a_clock_that_goes_back_while_training(tmp_path, classifier_run, monkeypatch):
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: 2 * began - time.monotonic() - began)
    classification.train(config_of(), tmp_path / "run")
    harness.assert_same(classifier_run, tmp_path / "run")


@pytest.mark.parametrize(("name", "text"), [("config.json", "{"), ("config.json", ""), ("config.json", "[]"),
                                            (workdirs.METRICS, "garbage\n"), (workdirs.METRICS, "{}\n"),
                                            (workdirs.METRICS, "[]\n")])
def test_a_file_of_the_workdir_that_is_garbage_is_named(half, name, text):
    (half / name).write_text(text)
    shutil.rmtree(half / "checkpoints" / "step_20")
    with pytest.raises(UserError, match=name) as error:
        classification.train(config_of(), half)
    assert "\n" not in str(error.value)


# Data

def test_a_nan_among_the_data_stops_the_run_which_goes_on_without_it(tmp_path, monkeypatch):
    """The pixels of step 12 are no numbers: nothing of that is kept. The whole run's are so at a step after its last:
    another program than with such pixels might round otherwise."""
    get_batch = classifier.Classifier.get_batch

    def run(name, poisoned):
        def get(task, data, key, step, shard, shards):
            batch = get_batch(task, data, key, step, shard, shards)
            return {**batch, "image": jnp.where(step == poisoned, jnp.nan, batch["image"])}

        monkeypatch.setattr(classifier.Classifier, "get_batch", get)
        classification.train(config_of(), tmp_path / name)

    run("whole", 1000)
    with pytest.raises(Diverged, match=r"the \w+ is nan at step 13, .* last good checkpoint is of step 10;"):
        run("run", 12)
    assert checkpoints(tmp_path / "run") == ["step_10", "step_5"]
    run("run", 1000)
    harness.assert_same(tmp_path / "whole", tmp_path / "run")


# Processes

LONG = ("steps=600", "schedule.boundaries=(300,450)", "eval_every=100", "checkpoint_every=20", "log_every=5")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("long") / "run"
    finish(start(*train(workdir, *LONG)))
    return workdir


# Which of the slow tests below were run, and when, stands in docs/reliability.md.
@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT),
                                     (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM),
                                     (signal.SIGTERM, signal.SIGKILL)], ids=lambda s: "-".join(x.name for x in s))
def test_signals_one_or_two_in_a_row(tmp_path, long, signals):
    rng = random.Random(str(signals))
    workdir = tmp_path / "run"
    process, row = start(*train(workdir, *LONG)), rng.randrange(5, 80)
    harness.wait_for(process, lambda: harness.rows(workdir) >= row)
    for s in signals:
        process.send_signal(s)
        time.sleep(rng.uniform(0, 0.05))
    _, said = process.communicate(timeout=600)
    assert process.returncode in {status for s in signals for status in (128 + s, -s)}, said
    assert "Traceback" not in said, said
    finish(start(*train(workdir, *LONG)))
    harness.assert_same(long, workdir)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_being_written(tmp_path, long):
    workdir = tmp_path / "run"
    for _ in range(3):
        process = start(*train(workdir, *LONG))
        row = harness.rows(workdir)
        harness.wait_for(process, lambda row=row: harness.rows(workdir) > row + 4 and harness.saving(workdir))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finish(start(*train(workdir, *LONG)))
    harness.assert_same(long, workdir)


@pytest.mark.slow
def test_two_processes_on_one_workdir(tmp_path, long):
    workdir = tmp_path / "run"
    first = start(*train(workdir, *LONG))
    harness.wait_for(first, lambda: harness.rows(workdir) > 0)
    line = harness.refused(start(*train(workdir, *LONG)))
    assert f"is in use by process {first.pid}" in line
    finish(first)
    harness.assert_same(long, workdir)


@pytest.fixture
def disk(tmp_path):
    """A function `(size, options)` that mounts a small disk, or changes it; root alone may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, options="rw"):
        remount = "remount," if os.path.ismount(folder) else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"{remount}size={size},{options}", "tmpfs", str(folder)],
                              capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return folder
    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["32k", "100k", "220k", "300k"])
def test_a_disk_that_is_full_and_then_is_not(disk, long, size):
    """Whether the rows, the first checkpoint or a later one do not fit: one line; with room made the run goes on."""
    workdir = disk(size) / "run"
    line = harness.refused(start(*train(workdir, *LONG)))
    assert "No space left" in line or "make room" in line, line
    disk("64m")
    finish(start(*train(workdir, *LONG)))
    harness.assert_same(long, workdir)


@pytest.mark.slow
def test_a_workdir_that_may_only_be_read(disk, long):
    workdir = disk("64m") / "run"
    process = start(*train(workdir, *LONG))
    harness.wait_for(process, lambda: harness.rows(workdir) > 20)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    disk("64m", "ro")
    assert "Read-only" in harness.refused(start(*train(workdir, *LONG)))
    disk("64m", "rw")
    finish(start(*train(workdir, *LONG)))
    harness.assert_same(long, workdir)


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path, long):
    """What a quota does: every file may have 2,000 bytes."""
    workdir = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))     # noqa: E731
    assert "File too large" in harness.refused(start(*train(workdir, *LONG), before=limit))
    finish(start(*train(workdir, *LONG)))
    harness.assert_same(long, workdir)


@pytest.mark.slow
def test_compiled_programs_that_were_cut_or_garbled(tmp_path, long):
    """The cache of compiled programs is only a cache: broken entries are compiled again."""
    cache = tmp_path / "xla"
    finish(start(*train(tmp_path / "first", *LONG), JAX_COMPILATION_CACHE_DIR=str(cache)))
    entries = [f for f in cache.iterdir() if f.name.endswith("-cache")]
    assert entries
    for i, file in enumerate(entries):
        file.write_bytes(b"" if i % 3 == 0 else file.read_bytes()[: file.stat().st_size // (i % 3 + 1)])
    finish(start(*train(tmp_path / "run", *LONG), JAX_COMPILATION_CACHE_DIR=str(cache)))
    harness.assert_same(long, tmp_path / "run")


@pytest.mark.slow
def test_the_cache_of_decoded_images_removed_while_they_are_used(tmp_path):
    """A process keeps what it has mapped, and the next one decodes again."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                    tmp_path / "set" / split / name / f"{i}.png")
    cache = tmp_path / "cache"
    arguments = [train(tmp_path / name, *LONG, "data.source=folder", f"data.path={tmp_path / 'set'}",
                       f"data.cache={cache}") for name in ("whole", "run")]
    finish(start(*arguments[0]))
    process = start(*arguments[1])
    harness.wait_for(process, lambda: harness.rows(tmp_path / "run") > 5)
    shutil.rmtree(cache)
    harness.wait_for(process, lambda: harness.rows(tmp_path / "run") > 30)
    process.kill()
    process.communicate(timeout=60)
    assert not cache.exists()
    finish(start(*arguments[1]))
    harness.assert_same(tmp_path / "whole", tmp_path / "run")
