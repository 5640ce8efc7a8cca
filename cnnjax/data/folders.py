"""Folders and tars of image files, `<split>/<class>/**` or `<class>/**`, decoded once into the cache."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from ml_collections import ConfigDict

from cnnjax.config import user_path
from cnnjax.data import cache, csv_labels, decode, files, huggingface
from cnnjax.data.holdout import held_out
from cnnjax.data.sets import ImageSet, Listing, Splits, check_classes
from cnnjax.errors import UserError


def folder(config: ConfigDict) -> Splits:
    """The image files that `path` lists in the manner of `config.source`, one of `LISTINGS`.

    Decoded images stand in the cache under a hash of their names, classes, sizes and times of change. Raises
    `UserError` as `listed` and `cnnjax.data.decode.decode_all` do.
    """
    base, listing = listed(config.source, config.path, config.test_share, config.seed)
    content = [[split, kind, [[name, *_stamp(base / name)] for name in names]]
               for split, kinds in listing.files.items() for kind, names in kinds.items()]
    splits = cache.cached(config.cache, "folder", [config.image_size, config.on_error, content],
                          _builder(listing, lambda name: decode.read_file(base / name), str(base), config))
    return splits._replace(left_out=(*listing.left_out, *splits.left_out), notes=listing.notes, split=listing.split)


def _stamp(file: Path) -> list[int]:
    """Size and time of change; nothing for a file that cannot be found, which is told when it is read."""
    try:
        stat = file.stat()
    except (OSError, ValueError):           # a name that no file can have
        return []
    return [stat.st_size, stat.st_mtime_ns]


def listed(source: str, path: str, test_share: float, seed: int) -> tuple[Path, Listing]:
    """The image files that the folder or file `path` lists, and the folder that their names are relative to.

    Where they come without splits, `test_share` of the images of each class are the test split, drawn by `seed`.
    Raises `UserError` as the function of `LISTINGS` does.
    """
    base, listing = LISTINGS[source](path)
    return base, _split_by_seed(listing, test_share, seed, str(base))


def _split_by_seed(listing: Listing, share: float, seed: int, where: str) -> Listing:
    """The listing as it is, if it has splits; otherwise with a test split drawn from each class."""
    if "" not in listing.files:
        return listing
    by_class: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for kind, names in listing.files[""].items():
        held = held_out(names, share, seed, f"{where}: class {kind!r}")
        for split, wanted in (("train", False), ("test", True)):
            by_class[split][kind] = [name for name, out in zip(names, held, strict=True) if out == wanted]
    drawn = {name: tuple(file for files in kinds.values() for file in files) for name, kinds in by_class.items()}
    total = sum(map(len, drawn.values()))
    note = (f"no splits in {where}: {len(drawn['test'])} of its {total} images are the test, drawn by seed {seed} from "
            f"each class (data.test_share={share:g})")
    return listing._replace(files=by_class, notes=(*listing.notes, note), split=drawn)


def tar(config: ConfigDict) -> Splits:
    """A tar, perhaps compressed, of such a folder. Nothing is unpacked; the cache is keyed by a hash of the whole file.

    One without splits is kept whole, and its test split drawn by the seed when it is read. Raises `UserError` for a
    missing, cut-off or broken tar, and for members that are links or lie outside it.
    """
    file = user_path(config.path)
    if not config.path or not file.is_file():
        raise UserError(f"data.path: no tar file {config.path!r}")
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()

    def build(target: Path) -> cache.Built:
        with open_tar(file, target) as (listing, read):
            built = _builder(listing, read, str(file), config)(target)
        return built._replace(left_out=[*listing.left_out, *built.left_out])

    read = cache.cached(config.cache, "tar", [config.image_size, config.on_error, content], build)
    return _drawn(read, config, str(file)) if "" in read.splits else read


def _drawn(read: Splits, config: ConfigDict, where: str) -> Splits:
    """A set without splits with the test split that `_split_by_seed` draws of its files, copied into memory."""
    (images, labels), files = read.splits[""], read.split[""]
    by_class = {kind: [files[i] for i in np.flatnonzero(labels == c)] for c, kind in enumerate(read.classes)}
    listing = _split_by_seed(Listing({"": by_class}, read.classes, ()), config.test_share, config.seed, where)
    row = {file: i for i, file in enumerate(files)}
    rows = {name: [row[file] for file in drawn] for name, drawn in listing.split.items()}
    return read._replace(splits={name: ImageSet(images[own], labels[own]) for name, own in rows.items()},
                         notes=listing.notes, split=listing.split)


@contextlib.contextmanager
def open_tar(file: Path, scratch: Path | None = None) -> Iterator[tuple[Listing, Callable[[str], bytes]]]:
    """The image files of a tar, and a function that reads one. A compressed one is unpacked to a file in `scratch`."""
    with tempfile.TemporaryFile(dir=scratch) as plain, _uncompressed(file, plain) as stream:
        members = _members(file, stream)

        def read(name: str) -> bytes:
            offset, size = members[name]
            return os.pread(stream.fileno(), size, offset)          # no shared position: safe on threads

        whole = not any(map(_split_at, members)) and not _level(list(members), str(file))
        yield _sort(list(members), str(file), whole=whole), read


def list_folder(path: str) -> tuple[Path, Listing]:
    """The image files of the folder `path`: splits train and test, or train and val, or all three (val is then the
    validation set), or none.

    Splits may go by another name (`files.split_of`). Classes are the names of the folders in them, or of those in
    `path`, sorted; the images of a class may lie in folders of its own. Links are followed. Raises `UserError` for a
    missing folder or split, a class without an image, fewer than two classes, and splits whose classes differ.
    """
    base = user_path(path)
    if not path or not base.is_dir():
        raise UserError(f"data.path: no folder {path!r}")
    tops = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(base))
    below = [top[:-1] for top in tops if _split_at(top)]
    if whole := not below and not _level(tops, str(base)):
        below = [top[:-1] for top in tops if top.endswith("/") and not files.hidden(top[:-1])]
    tree = files.walk(base, below)
    names = [*tops, *tree.files, *(f"{name}/" for name in tree.folders)]
    return base, _sort(names, str(base), tree.left_out, whole)


def _split_at(name: str) -> str | None:
    """The split ("train", "val" or "test") whose folder a name begins with."""
    top, _, rest = name.partition("/")
    return files.split_of(top) if rest or name.endswith("/") else None


def _sort(names: list[str], where: str, left_out: Sequence[str] = (), whole: bool = False) -> Listing:
    """Names of files, and of folders with a "/" at their end, into a `Listing`, checked. `left_out` is added to its.
    `whole`: the folders at the top are those of the classes, not of splits."""
    lines = list(left_out)
    folder_of: dict[str, str] = {}                                      # the folder of each split
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        top, *inner = name.rstrip("/").split("/")
        split, is_folder = _split_at(name), name.endswith("/")
        if whole:
            split, top, inner = "", "", [top, *inner]
        if any(map(files.hidden, (top, *inner))):
            lines += [] if is_folder and inner else [f"{name}: hidden"]
            continue
        if split is None:
            lines += [] if is_folder and inner else [f"{name}: no split (train, val or test)"]
            continue
        if folder_of.setdefault(split, top) != top:
            raise UserError(f"data.path: {where} has two folders of one split, {folder_of[split]}/ and {top}/; rename "
                            "one or join them")
        if is_folder:
            found.setdefault(split, {})
            if len(inner) == 1:
                found[split].setdefault(inner[0], [])
        elif len(inner) == 1:
            lines.append(f"{name}: beside the class folders, so of no class")
        else:
            images = found.setdefault(split, {}).setdefault(inner[0], [])
            if name.lower().endswith(decode.SUFFIXES):
                images.append(name)
            else:
                lines.append(f"{name}: no image that is read ({PurePosixPath(name).suffix or 'no suffix'})")
    found = {split: kinds for split, kinds in found.items() if kinds and (split or any(kinds.values()))}
    if "" not in found and ("train" not in found or not ("test" in found or "val" in found)):
        have = ", ".join(sorted({name.split("/")[0] for name in names})[:8]) or "nothing"
        alone = ""
        if "train" in found:
            alone = f"; or name {where}/{folder_of['train']}, of which data.test_share is then the test"
        raise UserError(f"data.path: {where} needs the folders train/<class>/ and test/<class>/ (or val/<class>/); it "
                        f"has {have}{_level(names, where)}{alone}")
    for split, kinds in found.items():
        for kind, images in kinds.items():
            if not images:
                raise UserError(f"data.path: {where}: class {folder_of[split]}{'/' * bool(split)}{kind} has no image "
                                f"(*{', *'.join(decode.SUFFIXES)})")
    if "" in found:
        check_classes(sorted(found[""]), where)
        return Listing(found, tuple(sorted(found[""])), tuple(lines))
    check_classes(sorted(found["train"]), f"{where}/{folder_of['train']}")
    for split, kinds in found.items():
        differing = sorted(set(kinds) ^ set(found["train"]))
        if differing:
            lacks = split if differing[0] in found["train"] else "train"
            raise UserError(f"data.path: {where}: class {differing[0]!r} is missing from {folder_of[lacks]}/")
    classes = tuple(sorted(found["train"]))
    by_class = {}
    for split, name in (("train", "train"), ("test", "test"), ("val", "validation" if "test" in found else "test")):
        if split in found:
            by_class[name] = {kind: found[split][kind] for kind in classes}
    return Listing(by_class, classes, tuple(lines))


def _level(names: list[str], where: str) -> str:
    """The end of an error message: the folder a level higher or lower that has the splits, or nothing."""
    own = files.split_of(Path(where).name)
    if own and any(files.split_of(other.name) not in (None, own) for other in Path(where).parent.glob("*/")):
        return f"; did you mean its parent, {Path(where).parent}?"
    for top in sorted({name.split("/")[0] for name in names if name.endswith("/")}):
        if any(files.split_of(child.name) == "train" for child in Path(where, top).glob("*/")):
            return f"; did you mean {Path(where, top)}?"
    return ""


def _builder(listing: Listing, read: Callable[[str], bytes], where: str, config: ConfigDict) -> cache.Build:
    def build(target: Path) -> cache.Built:
        labels, skipped, shapes, files = {}, [], {}, {}
        for split, classes in listing.files.items():
            names = [name for images in classes.values() for name in images]
            values = np.repeat(np.arange(len(classes), dtype=np.int32), [len(images) for images in classes.values()])

            def name_at(i: int, names: list[str] = names) -> str:
                return f"{where}/{names[i]}"

            def image_at(i: int, names: list[str] = names) -> np.ndarray:
                return decode.decode(read(names[i]), f"{where}/{names[i]}", config.image_size)

            kept, lines = decode.decode_all(len(names), image_at, name_at, target / f"{split}.npy", config.on_error)
            labels[split] = values[kept]
            files[split] = tuple(names[i] for i in kept)
            skipped += lines
            for c in sorted(set(values.tolist()) - set(labels[split].tolist())):
                raise UserError(f"data.path: {where}: class {split}{'/' * bool(split)}{listing.classes[c]} has no "
                                "readable image")
            shapes[split] = np.load(target / f"{split}.npy", mmap_mode="r").shape[1:]
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{split} {shape[1]}x{shape[0]}" for split, shape in shapes.items())
            raise UserError(f"data.path: {where}: the splits differ in size ({sizes}); set data.image_size")
        return cache.Built(labels, listing.classes, skipped, files.get("", ()))
    return build


LISTINGS: dict[str, Callable[[str], tuple[Path, Listing]]] = {
    "folder": list_folder, "csv": csv_labels.list_table, "huggingface": huggingface.list_metadata}
"""How image files and their classes are found below a path, by the name of data.source."""


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
                if not path.parts:                              # "./", the folder itself
                    continue
                members[str(path) + "/" * member.isdir()] = (member.offset_data, member.size)
                end = member.offset_data + member.size
    except tarfile.TarError as error:
        raise UserError(f"data.path: {file} is not a tar, or is cut off: {error}") from None
    if os.fstat(stream.fileno()).st_size < end + 512:      # the end is marked by blocks of zeros
        raise UserError(f"data.path: {file} is cut off: its end mark is missing")
    tops = {top for name in members if not files.hidden(top := name.split("/")[0])}
    if len(tops) == 1 and not any(map(files.split_of, tops)):       # packed with the folder that holds the splits
        members = {name.partition("/")[2] if name.split("/")[0] in tops else name: place
                   for name, place in members.items()}
    return members
