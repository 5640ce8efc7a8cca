"""Folders and tars of image files, `<split>/<class>/*.{jpg,jpeg,png}`, decoded once into the cache."""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import cache, decode
from cnnjax.data.sets import Splits
from cnnjax.errors import UserError


class Listing(NamedTuple):
    """Image files by split and class: `files[split][class]` is a sorted list of names within the folder or tar."""

    files: dict[str, dict[str, list[str]]]
    classes: tuple[str, ...]


def folder(config: ConfigDict) -> Splits:
    """The image folder `path`: splits train and test, or train and val, or all three (val is then the validation set).

    Classes are the folders' names, sorted. Decoded images stand in the cache under a hash of names, sizes and times of
    change. Raises `UserError` as `list_folder` and `cnnjax.data.decode.decode_all` do.
    """
    base, listing = list_folder(config.path)
    content = [[name, (stat := (base / name).stat()).st_size, stat.st_mtime_ns] for name in _names(listing)]
    return cache.cached(config.cache, "folder", [config.image_size, config.on_error, content],
                        _builder(listing, lambda name: decode.read_file(base / name), str(base), config))


def tar(config: ConfigDict) -> Splits:
    """A tar, perhaps compressed, of such a folder. Nothing is unpacked; the cache is keyed by a hash of the whole file.

    Raises `UserError` for a missing, cut-off or broken tar, and for members that are links or lie outside it.
    """
    file = Path(config.path).expanduser()
    if not config.path or not file.is_file():
        raise UserError(f"data.path: no tar file {config.path!r}")
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()

    def build(target: Path):
        with tempfile.TemporaryFile(dir=target) as plain:
            stream = _uncompressed(file, plain)
            members = _members(file, stream)
            listing = _sort(list(members), str(file))

            def read(name: str) -> bytes:
                offset, size = members[name]
                return os.pread(stream.fileno(), size, offset)      # no shared position: safe on threads

            with stream:
                return _builder(listing, read, str(file), config)(target)

    return cache.cached(config.cache, "tar", [config.image_size, config.on_error, content], build)


def list_folder(path: str) -> tuple[Path, Listing]:
    """The image files of the folder `path`; names are relative to it. Hidden files and other suffixes are left aside.

    Raises `UserError` for a missing folder or split, a class without an image, and splits whose classes differ.
    """
    base = Path(path).expanduser()
    if not path or not base.is_dir():
        raise UserError(f"data.path: no folder {path!r}")
    names, empty = [], []
    for split in _subfolders(base):
        for kind in _subfolders(split):
            found = [f"{split.name}/{kind.name}/{entry.name}" for entry in os.scandir(kind) if entry.is_file()]
            names += found
            empty += [] if found else [f"{split.name}/{kind.name}/"]
    return base, _sort(names + empty, str(base))


def _subfolders(base: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith("."))


def _sort(names: list[str], where: str) -> Listing:
    """Names "split/class/file" (and "split/class/" for a folder that may be empty) into a `Listing`, checked."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        parts = name.split("/")
        if len(parts) != 3 or parts[0] not in ("train", "val", "test") or any(p.startswith(".") for p in parts):
            continue
        files = found.setdefault(parts[0], {}).setdefault(parts[1], [])
        if parts[2].lower().endswith(decode.SUFFIXES):
            files.append(name)
    if "train" not in found or not ("test" in found or "val" in found):
        have = ", ".join(sorted({name.split("/")[0] for name in names})[:8]) or "nothing"
        raise UserError(f"data.path: {where} needs the folders train/<class>/ and test/<class>/ (or val/<class>/); it "
                        f"has {have}")
    for split, classes in found.items():
        for kind, files in classes.items():
            if not files:
                raise UserError(f"data.path: {where}: class {split}/{kind} has no image "
                                f"(*{', *'.join(decode.SUFFIXES)})")
    for split, classes in found.items():
        differing = sorted(set(classes) ^ set(found["train"]))
        if differing:
            lacks = split if differing[0] in found["train"] else "train"
            raise UserError(f"data.path: {where}: class {differing[0]!r} is missing from {lacks}/")
    found = {split: found[split] for split in ("train", "val", "test") if split in found}
    if "test" in found:
        named = {"val": "validation"}
        return Listing({named.get(split, split): classes for split, classes in found.items()}, tuple(found["train"]))
    return Listing({"train": found["train"], "test": found["val"]}, tuple(found["train"]))


def _names(listing: Listing) -> list[str]:
    return [name for classes in listing.files.values() for files in classes.values() for name in files]


def _builder(listing: Listing, read: Callable[[str], bytes], where: str, config: ConfigDict) -> cache.Build:
    def build(target: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...], list[str]]:
        labels, skipped, shapes = {}, [], {}
        for split, classes in listing.files.items():
            names = [name for files in classes.values() for name in files]
            values = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in classes.values()])

            def name_at(i: int, names: list[str] = names) -> str:
                return f"{where}/{names[i]}"

            def image_at(i: int, names: list[str] = names) -> np.ndarray:
                return decode.decode(read(names[i]), f"{where}/{names[i]}", config.image_size)

            kept, lines = decode.decode_all(len(names), image_at, name_at, target / f"{split}.npy", config.on_error)
            labels[split] = values[kept]
            skipped += lines
            gone = sorted(set(range(len(classes))) - set(labels[split].tolist()))
            if gone:
                raise UserError(f"data.path: {where}: class {split}/{listing.classes[gone[0]]} has no readable image")
            shapes[split] = np.load(target / f"{split}.npy", mmap_mode="r").shape[1:]
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{split} {shape[1]}x{shape[0]}" for split, shape in shapes.items())
            raise UserError(f"data.path: {where}: the splits differ in size ({sizes}); set data.image_size")
        return labels, listing.classes, skipped
    return build


def _uncompressed(file: Path, scratch):
    """An open file with the plain tar: `file` itself, or `scratch` filled with what a compressed one unpacks to."""
    with file.open("rb") as stream:
        magic = stream.read(6)
    opener: Callable | None = None
    if magic[:2] == b"\x1f\x8b":
        opener = gzip.open
    elif magic[:3] == b"BZh":
        opener = bz2.open
    elif magic == b"\xfd7zXZ\0":
        opener = lzma.open
    if opener is None:
        return file.open("rb")
    try:
        with opener(file) as stream:
            shutil.copyfileobj(stream, scratch, 2**20)
    except EOFError:
        raise UserError(f"data.path: {file} is cut off: its compressed data ends early") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:          # of the disk, not of the data
            raise
        raise UserError(f"data.path: {file} cannot be unpacked: {error}") from None
    scratch.seek(0)
    return scratch


def _members(file: Path, stream) -> dict[str, tuple[int, int]]:
    """Where each member lies in a plain tar: name, from the split on -> (offset, bytes). Folders' names end in "/"."""
    members: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise UserError(f"data.path: {file} has the member {member.name!r}, which lies outside it: refused")
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise UserError(f"data.path: {file} has the member {member.name!r}, which is a link or special "
                                    "file: refused; pack plain files and folders only")
                members[str(path) + "/" * member.isdir()] = (member.offset_data, member.size)
                end = member.offset_data + member.size
    except tarfile.TarError as error:
        raise UserError(f"data.path: {file} is not a tar, or is cut off: {error}") from None
    if os.fstat(stream.fileno()).st_size < end + 512:      # the end is marked by blocks of zeros
        raise UserError(f"data.path: {file} is cut off: its end mark is missing")
    tops = {name.split("/")[0] for name in members} - {"."}
    if len(tops) == 1 and not tops & {"train", "val", "test"}:      # packed with the folder that holds the splits
        members = {name.partition("/")[2]: place for name, place in members.items()}
    return members
