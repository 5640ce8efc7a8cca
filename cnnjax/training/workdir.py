"""The workdir of a run: its config, its lock, its files of metrics. Reports read all they show from here.

`metrics.jsonl` holds what the config determines, so that two runs of one config give the same bytes; `timing.jsonl`
holds what the machine determines.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.strict_json import to_json, with_nan
from cnnjax.training import distributed

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"

FREE_FIELDS = ("data.path", "data.cache", "tensorboard", "wandb", "keep_checkpoints", "deterministic", "sweep.trials",
               "sweep.launch")
"""Fields that may change when a run goes on: the same images may lie elsewhere, a sweep may be lengthened, and the rest
does not touch the result, `deterministic` but for the last bits on a GPU."""


class InUse(UserError):
    """Another process holds the workdir."""


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, may_change: Sequence[str] = ()) -> Iterator[None]:
    """Holds `workdir` for this process and this config; of the processes of one run the one that writes holds it.

    `may_change` are fields in which the workdir's config may differ, beside FREE_FIELDS. Raises InUse when another
    process holds it, and UserError when it was begun with another config (the differing fields are named), or when it
    cannot be written.
    """
    if not distributed.is_writer():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise InUse(f"workdir {workdir} is in use by process {holder}; wait for it or choose another "
                        "--workdir") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        new = not (workdir / "config.json").exists()
        same_config(workdir, config, may_change)
        try:
            yield
        except UserError:
            # Nothing was begun: the workdir can be used again once the mistake is corrected.
            if new and not any(path.is_dir() for path in workdir.iterdir()):
                for name in ("config.json", "run.json", "data.json", ".lock"):
                    (workdir / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):      # something else is in there
                    workdir.rmdir()
            raise


def same_config(workdir: Path, config: ConfigDict, may_change: Sequence[str] = ()) -> None:
    """Writes `config` to the workdir. Raises UserError, naming the fields, when another one is there."""
    path = workdir / "config.json"
    if path.exists():
        try:
            text = path.read_text()
            old = json.loads(text)
            configs.from_json(text)         # that it is an object
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}); choose another --workdir") from error
        new = json.loads(configs.dump(config))
        changed = [text for text in changes(old, new) if text.partition(":")[0] not in may_change]
        if changed:
            raise UserError(f"workdir {workdir} belongs to another config ({'; '.join(changed)}); choose another "
                            "--workdir or remove it")
    write(path, configs.dump(config))


def changes(old: Any, new: Any) -> list[str]:
    """The differences of two configs, one text a field, but for those that a run may change when it goes on."""
    return [d for d in configs.differences(old, new) if not d.startswith(FREE_FIELDS)]


def read_config(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`. Raises UserError when there is none."""
    path = workdir / "config.json"
    try:
        return configs.from_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{workdir} is not a run: it has no config.json") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that was cut off; none when there is no file. A null is NaN.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = []
    for line in lines[:-1]:                 # what follows the last newline was cut off while it was written
        try:
            rows.append(with_nan(json.loads(line)))
            rows[-1]["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {len(rows) + 1} is not a row of JSON with a step "
                            f"({type(error).__name__}: {error}); correct or remove it") from error
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON-lines file whole or not at all."""
    write(path, "".join(to_json(row) + "\n" for row in rows))


class Rows:
    """A JSON-lines file that is appended to and flushed row by row, begun anew from its rows up to `step`."""

    def __init__(self, path: Path, step: int):
        write_rows(path, [row for row in read_rows(path) if row["step"] <= step])
        self._file: TextIO = path.open("a")

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(to_json(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
