"""Disk cache of decoded images: memory-mapped arrays in folders named by a hash of all that they were made from.

A folder is written under another name and renamed when it is whole, so a half-written one is never read; of two
processes that write the same one the first to finish wins, and both read the same.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import cache_directory, user_path
from cnnjax.data.sets import ImageSet, Splits
from cnnjax.errors import DISK, UserError
from cnnjax.strict_json import to_json

_VERSION = 2        # of the layout and of the decoding: raise it when either changes
_STALE = 24 * 3600  # seconds after which the unfinished folder of a killed process is removed


class Built(NamedTuple):
    """What is kept beside the images: labels by split, class names, a line for each image that was left out, and the
    files of the images of a set without splits, which are drawn from it each time that it is read."""

    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    left_out: list[str]
    files: tuple[str, ...] = ()


Build = Callable[[Path], Built]


def root(cache: str) -> Path:
    """The folder that `data.cache` names, by default `cache_directory()`."""
    return user_path(cache) if cache else cache_directory()


def digest(content: Any) -> str:
    """A name for `content`, which is anything that JSON can hold."""
    return hashlib.sha256(to_json([_VERSION, content]).encode()).hexdigest()[:32]


def cached(cache: str, kind: str, content: Any, build: Build) -> Splits:
    """The splits that `content` (names, sizes, hashes, options: all that the result depends on) stands for.

    `build(folder)` is called when they are not there yet: it writes `<split>.npy`, the images of each split, into the
    folder, and returns the rest. The files of a set without splits are those of the split "".
    Raises `UserError` when the folder cannot be written or the disk is full; nothing of a failed build stays.
    """
    folder = root(cache) / f"{kind}-{digest(content)}"
    if (ready := _open(folder)) is not None:
        return ready
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(folder.parent) as unfinished:
            built = build(unfinished)
            for split, values in built.labels.items():
                np.save(unfinished / f"{split}_labels.npy", values.astype(np.int32))
            meta = {"splits": list(built.labels), "classes": built.classes, "left_out": built.left_out,
                    "files": built.files}
            (unfinished / "meta.json").write_text(to_json(meta))
            for file in unfinished.iterdir():
                _sync(file)
            _publish(unfinished, folder)
    except OSError as error:
        if error.errno in (*DISK, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"data.cache: cannot write {folder.parent}: {error.strerror}; make room or name another "
                            "folder in data.cache or CNNJAX_CACHE") from None
        raise
    ready = _open(folder)
    assert ready is not None, f"{folder} cannot be read just after it was written"
    return ready


def _open(folder: Path) -> Splits | None:
    """What the folder holds, or None when it is not there or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        splits = {}
        for split in meta["splits"]:
            images = np.load(folder / f"{split}.npy", mmap_mode="r")
            splits[split] = ImageSet(images, np.load(folder / f"{split}_labels.npy"))
            if len(splits[split].labels) != len(images):
                return None
        files = tuple(meta.get("files", ()))
        return Splits(splits, tuple(meta["classes"]), tuple(meta["left_out"]), split={"": files} if files else {})
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """A folder of this process's own that does not outlive the block, apart from what was renamed out of it."""
    for old in parent.glob("unfinished-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"unfinished-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if _open(folder) is not None:       # another process was first: its folder is as good
            return
        shutil.rmtree(folder)               # damaged
        unfinished.rename(folder)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
