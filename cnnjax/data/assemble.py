"""Build a detection data set from its annotations: every image is decoded once, faulty ones are reported or left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import decode
from cnnjax.data.annotations import Entry, Faults, usable_box
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.errors import UserError

MOST_CUT = 2
"""Pixels that a box may reach over the image's border, by another way of counting, without a word."""


def read_image(path: Path, upright: bool = True) -> np.ndarray:
    """An image file as uint8 (H, W, 3), turned as its orientation says if `upright`. Raises UserError."""
    name = str(path)
    return np.asarray(decode.to_rgb(decode.open_header(decode.read_file(path), name), name, upright))


def read_annotated(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file whose annotation says that it has that (height, width), upright or as it is stored.

    Raises UserError where it has neither.
    """
    name = str(path)
    image = decode.open_header(decode.read_file(path), name)
    stored = image.height, image.width
    pixels = np.asarray(decode.to_rgb(image, name, stored != size))
    if pixels.shape[:2] != size:
        raise UserError(f"{path}: the image is {pixels.shape[1]}x{pixels.shape[0]}, its annotation has another size; "
                        "correct it, or set data.verify and data.on_error=skip")
    return pixels


def probe(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the upright image in a file's bytes and as stored, after decoding all of them.

    The size that the file declares is read before. Raises `decode.BadImage` when it is no image, too large or cut
    short.
    """
    name = "it"
    image = decode.open_header(data, name)
    stored = image.height, image.width
    width, height = decode.upright_size(image, name)
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))       # JPEG: all the data, few pixels
    decode.load(image, name)
    return (height, width), stored


def probe_all(paths: Sequence[Path]) -> list[tuple[tuple[int, int], tuple[int, int]] | str]:
    """`probe` of each file, or the reason why it cannot be read."""
    def one(path: Path) -> Any:
        if not path.is_file():
            return "no such image file"
        try:
            return probe(decode.read_file(path))
        except decode.BadImage as error:
            return f"unreadable image ({error})"

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, paths))


@dataclass
class _Seen:
    """What is counted of the objects of a split."""

    others: Counter[str] = field(default_factory=Counter)       # of other classes, by name
    cut: int = 0                                                # boxes that reach far over the image's border


def assemble(entries: Sequence[Entry], classes: Sequence[str], faults: Faults, split: str, chosen: bool,
             verify: bool = True) -> DetectionSet:
    """The set of all images that can be read, with their usable boxes of the given classes.

    Objects of other classes are counted; `chosen`: the classes are those that data.classes names. An image that its
    orientation tag turns is turned, unless the annotation gives the size of the image as it is stored. Unless `verify`,
    the files whose size the annotation gives are not opened before they are read.
    """
    kept: list[Path] = []
    sizes, objects, reads = [], [], []
    seen, index = _Seen(), {name: c for c, name in enumerate(classes)}
    trusted = {} if verify else {e.image: e.size for e in entries if e.size is not None}
    probes = iter(probe_all([e.image for e in entries if e.image not in trusted]))
    for entry in entries:
        given = trusted.get(entry.image)
        probed = next(probes) if given is None else (given, given)
        if isinstance(probed, str):
            faults.found(entry.image, probed)
            continue
        turned, stored = probed
        height, width = size = stored if entry.size == stored else turned
        if entry.size not in (None, size):
            faults.found(entry.image, f"the image is {width}x{height}, its annotation has another size")
            continue
        kept.append(entry.image)
        sizes.append(size)
        objects.append(_usable_objects(entry, height, width, index, faults, seen))
        reads.append(partial(read_annotated, entry.image, size) if entry.image in trusted else
                     partial(read_image, entry.image, size == turned))
    _tell(split, seen, classes, chosen, faults)
    reach = [o.boxes.max() for o in objects if len(o.boxes)]
    if reach and max(reach) <= 1 < min(map(min, sizes)):
        faults.note(f"split {split!r}: no box reaches beyond the first pixel: are they shares of the image's sides, as "
                    "only data.source=yolo reads them?")
    return DetectionSet(tuple(p.name for p in kept), np.array(sizes).reshape(-1, 2), tuple(objects),
                        lambda i: reads[i]())


def _usable_objects(entry: Entry, height: int, width: int, index: Mapping[str, int], faults: Faults,
                    seen: _Seen) -> Objects:
    """The objects of an image whose class is in `index` and whose box is one; of the others a fault or a count."""
    rows, areas = [], []
    scale = (width, height, width, height) if entry.relative else (1, 1, 1, 1)
    for obj in entry.objects:
        if obj.name and obj.name not in index:
            seen.others[obj.name] += 1
            continue
        box: Any = obj.box
        if not isinstance(box, str):
            given = [side * n for side, n in zip(box, scale, strict=True)]
            box = usable_box(given, height, width)
        if isinstance(box, str):
            faults.found(entry.annotation, f"{obj.name} {box}".strip())
            continue
        seen.cut += any(abs(a - b) > MOST_CUT for a, b in zip(box, given, strict=True))
        rows.append((box, index[obj.name], obj.difficult, obj.truncated))
        areas.append(obj.area)
    return _with_areas(Objects.of(rows), areas)


def _tell(split: str, seen: _Seen, classes: Sequence[str], chosen: bool, faults: Faults) -> None:
    """Notes what was counted of a split."""
    def objects(count: int) -> str:
        return f"{count} object{'s' * (count != 1)}"

    if seen.cut:
        verbs = ("es reach", "are") if seen.cut > 1 else (" reaches", "is")
        faults.note(f"split {split!r}: {seen.cut} box{verbs[0]} over the image's border by more than {MOST_CUT} pixels "
                    f"and {verbs[1]} cut there")
    names = sorted(seen.others.items())
    if names and chosen:
        faults.left_out(f"split {split!r}: {objects(seen.others.total())} of classes that data.classes does not name "
                        f"({', '.join(f'{name} {count}' for name, count in names)})")
    elif names:
        for name, count in names:
            faults.left_out(f"split {split!r}: {objects(count)} of {name!r}, which is none of the classes "
                            f"{', '.join(classes)}")


def _with_areas(objects: Objects, areas: Sequence[float | None]) -> Objects:
    """The objects with the areas that were annotated, and their boxes' where one is None; unchanged where all are."""
    if all(area is None for area in areas):
        return objects
    boxes = objects.boxes.astype(np.float64)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return objects._replace(areas=np.array([o if a is None else a for a, o in zip(areas, own, strict=True)]))
