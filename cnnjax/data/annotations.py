"""Annotations of detection data sets as their readers (`voc`, `coco`, ...) return them, and the choice of splits.

Formats differ in where the files are and how a box is written; which splits a run uses, and whether a fault stops it or
is skipped, is decided here for all of them.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from cnnjax.config import nearest
from cnnjax.data import files
from cnnjax.errors import UserError


class Object(NamedTuple):
    """An object as an annotation has it."""

    name: str                               # of its class; "" where the annotation does not say
    box: Sequence[float] | str              # (x1, y1, x2, y2), continuous; or the reason why there is none
    difficult: bool = False
    truncated: bool = False
    area: float | None = None               # in pixels, where the annotation gives one that is not its box's


class Entry(NamedTuple):
    """An image as an annotation has it."""

    image: Path
    annotation: Path
    size: tuple[int, int] | None            # height and width, where the annotation gives them
    objects: Sequence[Object]
    relative: bool = False                  # boxes are shares of the image's width and height, not pixels


class Part(NamedTuple):
    """One split: its images, and the classes in the order that the annotations give them; None: they give none."""

    entries: list[Entry]
    classes: tuple[str, ...] | None = None


class Source(NamedTuple):
    """A data set whose splits are read when they are called. The one of a data set without splits is named ""."""

    parts: dict[str, Callable[[], Part]]
    expected: str                           # of a message: where a split "{}" would lie


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number that a float holds (NaN and infinity are such, true and false are not)."""
    return type(value) is float or (type(value) is int and abs(value) < 2**62)


def object_of(where: str, name: str, bbox: Any, area: Any = None, crowd: Any = None) -> Object:
    """An object of COCO's `bbox` [x, y, width, height], `area` and `iscrowd`, as they were read of JSON.

    Where bbox or iscrowd is none, the reason, which says `where`, stands in place of the box.
    """
    if (crowd or 0) not in (0, 1):
        return Object(name, f"({where}): iscrowd is {crowd!r:.40}, expected 0 or 1")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        return Object(name, f"({where}): bbox is {bbox!r:.80}, expected four numbers")
    x, y, width, height = bbox
    pixels = float(area) if is_number(area) else math.nan
    return Object(name, [x, y, x + width, y + height], bool(crowd), area=pixels if 0 <= pixels < math.inf else None)


class Faults:
    """Messages on a data set: faults, which stop the reading or are skipped; what is left out; what was chosen."""

    def __init__(self, on_error: str) -> None:
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error: found {on_error!r}, expected 'stop' or 'skip'")
        self.on_error = on_error
        self.skipped: list[str] = []
        self.unused: list[str] = []
        self.notes: list[str] = []

    def found(self, file: str | Path, reason: str) -> None:
        """Raises UserError naming file and reason, or notes that they were skipped."""
        line = " ".join(f"{file}: {reason}".splitlines())
        if self.on_error == "stop":
            raise UserError(f"{line}; correct the file or set data.on_error=skip")
        self.skipped.append(line)

    def left_out(self, line: str) -> None:
        """Notes what is not used though nothing is wrong with it."""
        self.unused.append(" ".join(line.splitlines()))

    def note(self, line: str) -> None:
        """Notes a choice that the user should know of."""
        self.notes.append(" ".join(line.splitlines()))


def usable_box(box: Sequence[float], height: int, width: int) -> list[float] | str:
    """The box clipped to the image, or the reason why it is none: not finite, reversed, empty or outside."""
    x1, y1, x2, y2 = map(float, box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return f"box {tuple(box)} is not finite"
    if x2 < x1 or y2 < y1:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is reversed"
    if x2 == x1 or y2 == y1:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area"
    clipped = [min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height)]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the image of {width}x{height}"
    return clipped


# Splits

WHOLE = ("", "all", "default")
"""Names of a split that is none: what tools call all images when no splits were made."""


def choose_splits(source: Source, root: Path, train: str, test: str, faults: Faults) -> tuple[list[str], list[str]]:
    """The names in `source` of the splits that data.train_split and data.test_split ask for.

    "train+val" joins two. A split may go by another case of letters, a synonym or a year (`files.split_of`), "trainval"
    is train and val where no split has that name, and val is the test where there is none: notes say so. No name for
    the test: part of the training images is to be held out, since the set has no splits or `test` is "".
    Raises UserError for a split that is not there, or that two could be.
    """
    whole = _is_whole(source, train, test)
    train_parts = _resolve(source, train) or (list(source.parts) if whole else [])
    test_parts = _resolve(source, test) if test else []
    if train_parts and not test_parts and files.split_of(test) == "test":
        val = [name for name in source.parts if standard_name(name) == "val"]
        rest = [name for name in train_parts if name not in val]
        named = any(standard_name(part) == "val" for part in train.split("+"))
        if len(val) == 1 and rest and not named and not any(part.casefold() == "trainval" for part in rest):
            train_parts, test_parts = rest, val
    if not train_parts or not (test_parts or whole or not test):
        field, missing = ("train_split", train) if not train_parts else ("test_split", test)
        part = next((part for part in missing.split("+") if not _resolve(source, part)), missing)
        there = sorted(source.parts, key=lambda name: (standard_name(name) is None, name))
        shown = ", ".join(there[:8]) + ", ..." * (len(there) > 8)
        offer = "" if field == "train_split" else (f", or data.test_split= (nothing) to hold data.test_share of "
                                                   f"{train} out by seed")
        raise UserError(f"data.path {root}: no split {part!r} (no file {source.expected.format(part)}); it has "
                        f"{shown}: set data.{field}{offer}{nearest(part, source.parts)}")
    for field, asked, given in (("train_split", train, train_parts), ("test_split", test, test_parts)):
        if given and not (whole and given[0].casefold() in WHOLE) and "+".join(given) != asked:
            faults.note(f"data.{field}={asked} is read from {' + '.join(given)}")
    return train_parts, test_parts


def _is_whole(source: Source, train: str, test: str) -> bool:
    """Whether the set has no splits: one part, of a name in `WHOLE`, or of one that is no split's where splits are
    asked for by the usual names."""
    if len(source.parts) != 1:
        return False
    (only,) = source.parts
    usual = all(standard_name(part) or part.casefold() in ("", "trainval") or part == only
                for part in (*train.split("+"), *test.split("+")))
    return only.casefold() in WHOLE or (usual and not standard_name(only) and only.casefold() != "trainval")


def standard_name(name: str) -> str | None:
    """"train", "val" or "test" for a name such as "Train", "valid" or "val2017"."""
    return files.split_of(name.rstrip("0123456789_-"))


def _resolve(source: Source, asked: str) -> list[str]:
    """The names of the splits that "train+val" asks for; none where one of them is not there."""
    names: list[str] = []
    for part in asked.split("+"):
        both = [[n for n in source.parts if standard_name(n) == kind] for kind in ("train", "val")]
        found = [n for n in source.parts if n == part]
        found = found or [n for n in source.parts if n.casefold() == part.casefold()]
        found = found or [n for n in source.parts if standard_name(part) and standard_name(n) == standard_name(part)]
        if not found and part.casefold() == "trainval" and both[0]:
            names += [_one(part, kind) for kind in both if kind]
        elif not found:
            return []
        else:
            names.append(_one(part, found))
    return names


def _one(part: str, names: list[str]) -> str:
    if len(names) > 1:
        raise UserError(f"data: the split {part!r} could be any of {', '.join(names)}: name one in data.train_split "
                        "and data.test_split")
    return names[0]
