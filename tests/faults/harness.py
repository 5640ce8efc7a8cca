"""Starts commands of cnnjax as processes, disturbs them at chosen moments, and compares what they leave."""

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.training import workdir as workdirs
from cnnjax.training.checkpoints import Checkpoints, checksum
from tests.conftest import TINY, start

DEPTH = "tests/faults/tiny_depth.py"
FASTER = "tests/faults/tiny_faster.py"

TIMES = ("seconds", "images_per_second", "image_seconds", "proposal_seconds", "resumed")
"""What a result says of the machine, not of the run."""


def train(workdir: Path, *overrides: str, config: str | Path = TINY, verb: str = "train") -> tuple[Any, ...]:
    """The arguments of a run in `workdir`."""
    return (verb, "--config", config, "--workdir", workdir, *(f"--config.{o}" for o in overrides))


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """Waits for the process, which must end with that status and without a traceback; gives what it said."""
    _, said = process.communicate(timeout=1800)
    assert process.returncode == status, f"status {process.returncode}: {said}"
    assert "Traceback" not in said, said
    return said


def refused(process: subprocess.Popen) -> str:
    """Waits for the process, which must end with status 2 and one line, and gives that line."""
    lines = [line for line in finish(process, 2).splitlines() if line.startswith("cnnjax: ")]
    assert len(lines) == 1, lines
    return lines[0]


def memory(process: subprocess.Popen) -> float:
    """The process's own memory in MB (RssAnon: what the system cannot take back); 0 when it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1e3
    return 0.0


def _folders(workdir: Path) -> list[Path]:
    """Where a run, a study or a ladder keeps metrics and checkpoints."""
    return [workdir, *(workdir / "cells").glob("*")]


def rows(workdir: Path) -> int:
    """Rows of all metrics in the workdir and its cells."""
    files = [folder / workdirs.METRICS for folder in _folders(workdir)]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written in the workdir or its cells."""
    with contextlib.suppress(FileNotFoundError):        # it was renamed while we looked
        return any("tmp" in name for folder in _folders(workdir) if (folder / "checkpoints").exists()
                   for name in os.listdir(folder / "checkpoints"))
    return False


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Returns when the condition holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.01)


def kill_at_random(arguments: tuple[Any, ...], workdir: Path, total: int, kills: int, rng: random.Random) -> list[str]:
    """Runs the command again and again, killed each time: at `kills` random moments of the run's `total` rows, every
    third time while a checkpoint is being written there, every fourth while it is still starting. Says when.

    The moments are rows that the run has come to, so that each kill finds it further on.
    """
    moments = []
    for i, row in enumerate(sorted(rng.sample(range(1, total), kills))):
        process = start(*arguments)
        if i % 4 == 3:
            latest = time.monotonic() + rng.uniform(0.1, 10)
            wait_for(process, lambda row=row, latest=latest: time.monotonic() > latest or rows(workdir) >= row)
            when = "starting" if rows(workdir) < row else f"row {row}"
        else:
            wait_for(process, lambda row=row: rows(workdir) >= row)
            when = f"row {row}"
            if i % 3 == 2:
                wait_for(process, lambda row=row: saving(workdir) or rows(workdir) >= min(row + 10, total - 1))
                when += ", saving" if saving(workdir) else ""
            else:
                time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -9, f"the run ended with {process.returncode} before kill {i + 1} at {when}"
        moments.append(when)
    return moments


def left(workdir: Path) -> dict[str, Any]:
    """All that the config determines of what a finished run or study left, by the file's name: metrics byte for byte,
    results without their times, the last checkpoints' arrays and the detectors' by checksum."""
    found: dict[str, Any] = {}
    for file in sorted(workdir.glob("**/*")):
        name = str(file.relative_to(workdir))
        if file.name in (workdirs.METRICS, "config.json"):
            found[name] = file.read_bytes()
        elif file.name == "result.json":
            found[name] = {k: v for k, v in json.loads(file.read_text()).items() if k not in TIMES}
        elif file.name == "table.md":
            found[name] = [timeless(line) for line in file.read_text().splitlines()]
        elif file.name == "detector.npz":
            with np.load(file) as arrays:
                found[name] = checksum({k: arrays[k] for k in arrays.files})
        elif file.name == "checkpoints":
            found[name] = last_checkpoint(file)
    return found


def timeless(line: str) -> list[str]:
    """A table's row without its columns of times: a depth study's last two, a ladder's seconds and minutes."""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return cells[:-2] if len(cells) == 7 else cells[:7] if len(cells) == 14 else cells


def last_checkpoint(folder: Path) -> tuple[int, int]:
    """Step and checksum of the newest checkpoint."""
    kept = Checkpoints(folder)
    step = kept.steps()[-1]
    restored = kept._manager.restore(step)
    kept.close()
    return step, checksum(restored["state"])


def assert_same(one: Path, other: Path) -> None:
    """Both left the same, bit for bit."""
    a, b = left(one), left(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == b[name], name
    assert a, f"{one} holds nothing"
