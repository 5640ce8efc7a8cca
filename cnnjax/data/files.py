"""Find and read files of data sets: synonyms of split names, hidden files, broken links, byte order marks."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cnnjax.errors import UserError, one_line

_SPLITS = {"train": "train", "training": "train",
           "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "evaluation": "val",
           "test": "test", "testing": "test"}


def split_of(name: str) -> str | None:
    """"train", "val" or "test" for a folder or list of that name in any case of letters, or of a synonym of it."""
    return _SPLITS.get(name.casefold())


def split_folder(name: str) -> str | None:
    """The first folder on the way to a file that has the name of a split."""
    return next((part for part in name.split("/")[:-1] if split_of(part)), None)


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or is one that a system leaves behind."""
    return name.startswith(".") or name.casefold() in ("__macosx", "thumbs.db", "desktop.ini")


def decode_text(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, with a byte order mark (which is dropped) or without. Raises UnicodeError."""
    return data.decode(json.detect_encoding(data))      # by the mark, or by where the zeros of the first letters are


def read_text(file: Path) -> str:
    """A text file's content, as `decode_text`. Raises UserError for one that cannot be read, or is no text."""
    try:
        return decode_text(file.read_bytes())
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({one_line(error)})") from None


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that hold something, without the blanks around it. Raises UserError as `read_text`."""
    lines = (line.strip("\ufeff \t\r\n\f\v") for line in read_text(file).splitlines())  # any may start with a mark:
    return [line for line in lines if line]                                             # files are put together


class Tree(NamedTuple):
    """What lies below a folder, by "/"-separated names relative to it, sorted; a line for each thing left out."""

    files: list[str]
    folders: list[str]
    left_out: list[str]


def walk(base: Path, below: Iterable[str] = ("",)) -> Tree:
    """The files and folders at any depth below the folders `below` of `base`. Links are followed.

    Left out and listed: hidden files and folders, broken links, links back to a folder above, pipes and devices.
    """
    tree = Tree([], [], [])
    todo: list[tuple[str, tuple[str, ...]]] = [(name, (os.path.realpath(base / name),)) for name in below]
    while todo:
        folder, above = todo.pop()
        for entry in os.scandir(base / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if hidden(entry.name):
                tree.left_out.append(f"{name}: hidden")
            elif entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if real in above:
                    tree.left_out.append(f"{name}: a link to a folder that it lies in")
                    continue
                tree.folders.append(name)
                todo.append((name, (*above, real)))
            elif entry.is_file():
                tree.files.append(name)
            else:
                tree.left_out.append(f"{name}: {'a broken link' if entry.is_symlink() else 'not a file'}")
    for names in tree:
        names.sort()
    return tree


_ANNOTATIONS = (".xml", ".txt", ".json")


class Index:
    """Files of some suffixes, found by the names that lists and annotations give them.

    `names` are "/"-separated, relative to one folder; `suffixes` are in lower case, such as `decode.SUFFIXES`.
    """

    def __init__(self, names: Sequence[str], suffixes: Sequence[str]) -> None:
        self.names = [name for name in names if name.lower().endswith(tuple(suffixes))]
        self._suffixes = tuple(suffixes)
        self._all = set(self.names)
        self._in: dict[tuple[str, str], list[str]] = defaultdict(list)      # of a folder and a stem
        self._below: dict[tuple[str, str], list[str]] = defaultdict(list)   # of a folder at any height and a stem
        self._folders: set[str] = set()
        self._other = {PurePosixPath(name).stem.casefold(): name for name in names
                       if name not in self._all and not name.lower().endswith(_ANNOTATIONS)}
        for name in self.names:
            path = PurePosixPath(name.casefold())
            stem = self.stem(path.name)
            self._in[_folder(path.parent), stem].append(name)
            for above in path.parents:
                self._below[_folder(above), stem].append(name)
                self._folders.add(_folder(above))

    def stem(self, name: str) -> str:
        """A file's name without folder, and without suffix where it is one of the index's, in lower case."""
        name = name.replace("\\", "/").rpartition("/")[2].casefold()
        return next((name[: -len(suffix)] for suffix in self._suffixes if name.endswith(suffix)), name)

    def other(self, wanted: str) -> str:
        """A file of that name that is neither one of the index nor an annotation; "" where there is none."""
        return self._other.get(self.stem(wanted), "")

    def has(self, folder: str) -> bool:
        """Whether a file lies in or below that folder, in any case of letters."""
        return folder.casefold() in self._folders

    def find(self, wanted: str, folders: Sequence[str] = ("",)) -> list[str]:
        """The file that `wanted` means, looked for in each of `folders` in turn; more than one where it is not clear.

        First the file of just that name is looked for; then, in each folder, one that differs in the case of letters or
        in the suffix alone, there or in a folder further down. A name with ".." must not leave the folder.
        """
        path = PurePosixPath(wanted.replace("\\", "/"))
        parts = [part for part in path.parts if part not in ("/", ".") and not part.endswith(":")]
        if not parts or not parts[-1].strip():
            return []
        inside = [(folder, whole) for folder in folders if (whole := _inside(folder, parts)) is not None]
        for _, whole in inside:
            if whole in self._all:
                return [whole]
        for folder, whole in inside:
            place, last = whole.casefold().rpartition("/")[0], parts[-1].casefold()
            near = self._in.get((place, self.stem(last))) or (
                self._below.get((folder.casefold(), self.stem(last))) if ".." not in parts else None) or (
                self._in.get((place, PurePosixPath(last).stem)) or [])
            same = [name for name in near if name.casefold().rpartition("/")[2] == last]
            if near:
                return same if len(same) == 1 else near
        return []


def _folder(path: PurePosixPath) -> str:
    return "" if path == PurePosixPath(".") else str(path)


def _inside(folder: str, parts: Sequence[str]) -> str | None:
    """`folder` and `parts` as one name, its ".." resolved; None where they lead out."""
    whole: list[str] = [part for part in folder.split("/") if part]
    for part in parts:
        if part != "..":
            whole.append(part)
        elif whole:
            whole.pop()
        else:
            return None
    return "/".join(whole)
