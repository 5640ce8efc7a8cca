"""Annotated images for detection: one layout of objects, images in a few static sizes, batches by step number.

Whatever the source (`READERS`, `voc_tfds`, `scatter`), boxes are `(x1, y1, x2, y2)`, float32, continuous pixel
coordinates from the upper left corner of the upright image. What is wrong with an image or a box is refused by file
name and reason, or skipped, counted and listed, as `data.on_error` says.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cnnjax.config import nearest, user_path
from cnnjax.data import coco, decode, formats, huggingface, voc, yolo
from cnnjax.data.annotations import Entry, Faults, Part, Source, choose_splits, standard_name, usable_box
from cnnjax.data.holdout import TEST_SHARE, held_out
from cnnjax.data.sets import sort_classes, summary
from cnnjax.errors import UserError
from cnnjax.fields import NATURAL, Field, Fields

Batch = dict[str, np.ndarray]

FIELDS: Fields = {
    "source": Field("voc", "auto, voc, coco, yolo, huggingface, tfds, or scatter, the embedded set"),
    "path": Field("", "folder of images and annotations"),
    "train_split": Field("trainval", "train+val joins two"),
    "test_split": Field("test", "empty: data.test_share of train_split, drawn by seed"),
    "test_share": Field(TEST_SHARE, "of the images, drawn by seed, where a data set has no splits", "(0, 1)"),
    "validation": Field(0, "images held out of train_split by seed, to score a detector on in training", NATURAL),
    "validation_split": Field("", "the split to score on instead, where the set has one"),
    "classes": Field((), "those to find; empty: all that are there"),
    "verify": Field(True, "all images are decoded before training; False: a file is opened when its turn comes"),
    "on_error": Field("stop", "or skip: faulty images and boxes are left out, counted and listed", ("stop", "skip")),
    "train_images": Field(0, "of scatter: how many are made"),
    "test_images": Field(0, "of scatter: how many are made"),
    "size": Field(0, "of scatter: pixels of a side"),
    "canvases": Field(((600, 1000), (1000, 600)), "height and width; an image takes the one it fills best"),
    "flip": Field(True, "random horizontal flips"),
    "jitter": Field(1.0, "smallest scale of an image in training, at random; 1: none", "(0, 1]"),
}
"""The group `data` of a detector's config."""


class Objects(NamedTuple):
    """The annotated objects of one image."""

    boxes: np.ndarray           # (G, 4) float32, in pixels of the image as it was read
    classes: np.ndarray         # (G,) int32, from 0
    difficult: np.ndarray       # (G,) bool: neither trained on nor counted in evaluation
    truncated: np.ndarray       # (G,) bool: cut by the border or hidden in part
    areas: np.ndarray | None = None     # (G,) float64, annotated, by which COCO tells sizes; None: those of the boxes

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, int, bool, bool]]) -> "Objects":
        """From rows of (box, class, difficult, truncated)."""
        boxes, classes, difficult, truncated = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(classes, np.int32),
                   np.asarray(difficult, bool), np.asarray(truncated, bool))


@dataclass(frozen=True)
class DetectionSet:
    """Annotated images. `read(i)` gives image i as uint8 (H, W, 3)."""

    names: tuple[str, ...]
    sizes: np.ndarray                       # (N, 2) int: height and width
    objects: tuple[Objects, ...]
    read: Callable[[int], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: np.ndarray) -> "DetectionSet":
        """The images of those numbers."""
        return DetectionSet(tuple(self.names[i] for i in rows), self.sizes[rows], tuple(self.objects[i] for i in rows),
                            lambda i: self.read(int(rows[i])))


class DetectionData(NamedTuple):
    """The two splits of a detection data set, and what there is to say of it, a line each."""

    train: DetectionSet
    test: DetectionSet
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()       # faulty images and boxes, skipped since data.on_error says so
    unused: tuple[str, ...] = ()        # what is there and not used though nothing is wrong with it, as by data.classes
    notes: tuple[str, ...] = ()         # choices that were made here, such as a test split drawn by seed
    split: Mapping[str, tuple[str, ...]] = {}       # the images of "train" and "test", where they were drawn by seed
    validation: DetectionSet | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """All that is there and not used: `skipped` and `unused`."""
        return self.skipped + self.unused

    def said(self) -> list[str]:
        """What is told at the start of a run, a line each: the notes, and how much is not used."""
        parts = (self.skipped, "faulty, skipped"), (self.unused, "not used")
        return [*self.notes, *(summary(lines, what) for lines, what in parts if lines)]


READERS: dict[str, Callable[[Path, Faults], Source]] = {"voc": voc.read, "coco": coco.read,
                                                             "yolo": yolo.read, "huggingface": huggingface.read}
"""The formats of files, by the name of data.source."""

MOST_CUT = 2
"""Pixels that a box may reach over the image's border, by another way of counting, without a word."""

FILES = {"yolo": yolo.SUFFIXES, "coco": (".json",)}
"""The suffixes of the files that may be named in place of their folder."""


def load(config: Any, seed: int) -> DetectionData:
    """The data set that `config` (the `data` group of an experiment's config) names by its `source`.

    A set without splits, or an empty test_split, has `test_share` of its images held out, drawn by `seed`; validation
    images are those of `validation_split`, or `validation` of the training images. Raises UserError for an unknown
    source, a missing path or split, a split without an object that counts, and, with `on_error="stop"`, the first
    fault.
    """
    data, count = _load(config, seed), config.get("validation", 0)
    if not count:
        return data
    if data.validation is not None:
        raise UserError(f"config field 'data.validation': found {count}, but data.validation_split is set too; leave "
                        "one of them out")
    kept, held = hold_out(data.train, count, seed)
    return data._replace(train=kept, validation=held)


def _load(config: Any, seed: int) -> DetectionData:
    """`load` without the images that are held out of the training split."""
    from cnnjax.data import synthetic_digits, voc_tfds  # they import this module

    held = config.get("validation_split", "")
    if config.source == "scatter":
        if held:
            raise UserError(f"config field 'data.validation_split': found {held!r}, but the embedded set has none; set "
                            "data.validation to how many training images are held out")
        train = synthetic_digits.generate("train", config.train_images, config.size, seed)
        test = synthetic_digits.generate("test", config.test_images, config.size, seed)
        return DetectionData(train, test, synthetic_digits.CLASSES)
    validation: DetectionSet | None = None
    faults = Faults(config.on_error)
    split: dict[str, tuple[str, ...]] = {}
    source, notes = formats.resolve(config.source, config.path, "detect")
    faults.notes += notes
    if source == "tfds":
        train, test, classes = voc_tfds.read(config.path, config.train_split, config.test_split, faults)
        if held:
            _, validation, _ = voc_tfds.read(config.path, config.train_split, held, faults)
    elif source in READERS:
        train, test, validation, classes, split = _read(source, config, seed, faults)
    else:
        raise UserError(f"data.source: found {source!r}, expected one of auto, scatter, tfds, {', '.join(READERS)}"
                        f"{nearest(source, READERS)}")
    for images, name in ((train, config.train_split), (test, config.test_split),
                         *([] if validation is None else [(validation, held)])):
        if not len(images):
            raise UserError(f"data.path {config.path}: no usable image in split {name!r}")
        if all(objects.difficult.all() for objects in images.objects):
            raise UserError(f"data.path {config.path}: no object of {', '.join(classes) or 'any class'} in split "
                            f"{name!r}, but for difficult ones: nothing to train on or to count; name other splits or "
                            "data.classes")
    trained = {c for objects in train.objects for c in objects.classes[~objects.difficult].tolist()}
    if len(trained) < len(classes):
        names = [name for c, name in enumerate(classes) if c not in trained]
        faults.note(f"no object to train on, but for difficult ones, of {len(names)} of the {len(classes)} classes: "
                    f"{', '.join(names)}")
    folded = Counter(name.casefold() for name in classes)
    if alike := [name for name in classes if folded[name.casefold()] > 1]:
        faults.note(f"classes that differ in the case of letters alone: {', '.join(alike)}")
    return DetectionData(train, test, classes, tuple(faults.skipped), tuple(faults.unused), tuple(faults.notes), split,
                         validation)


def read_all(source: str, path: str) -> tuple[dict[str, DetectionSet], tuple[str, ...], Faults]:
    """The splits of the data set at `path` by their own names, its classes, and what there is to say of it.

    Where some have a usual name (train, val, trainval, test) only those, not the lists that VOC has for each class.
    `source` is one of `READERS`. Faults are skipped and listed. Raises UserError where nothing can be read.
    """
    faults = Faults("skip")
    found = _source(source, path, faults)[1].parts
    usual = [name for name in found if standard_name(name) or name.casefold() == "trainval"]
    if usual and len(usual) < len(found):
        faults.note(f"other splits, not read: {', '.join(name for name in found if name not in usual)}")
    parts = {name: found[name]() for name in usual or found}
    classes = _classes(list(parts.values()), list(parts.values()), (), path)
    sets = {name: assemble(part.entries, classes, faults, name, False) for name, part in parts.items()}
    return sets, classes, faults


def _read(source: str, config: Any, seed: int, faults: Faults,
          ) -> tuple[DetectionSet, DetectionSet, DetectionSet | None, tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The splits to train and to test on, that of the validation, the classes, and the names of the images of the first
    two where they were drawn by seed."""
    root, found = _source(source, config.path, faults)
    train_names, test_names = choose_splits(found, root, config.train_split, config.test_split, faults)
    held_split = config.get("validation_split", "")
    held_names = _validation_names(found, root, held_split, faults) if held_split else []
    for field_, names in (("train_split", train_names), ("test_split", test_names)):
        if shared := set(held_names) & set(names):
            raise UserError(f"config field 'data.validation_split': found {held_split!r}, but data.{field_} = "
                            f"{config[field_]} has the images of {' + '.join(sorted(shared))} too; name another split")
    parts = {name: found.parts[name]() for name in dict.fromkeys(train_names + test_names + held_names)}
    classes = _classes([parts[name] for name in train_names], list(parts.values()), tuple(config.classes), config.path)

    train, test, validation = ([entry for name in names for entry in parts[name].entries]
                               for names in (train_names, test_names, held_names))
    split = {}
    if not test_names:
        names = [_name(entry, root) for entry in train]
        held = held_out(names, share := config.get("test_share", TEST_SHARE), seed, str(root))
        test = [entry for entry, out in zip(train, held, strict=True) if out]
        train = [entry for entry, out in zip(train, held, strict=True) if not out]
        split = {"train": tuple(_name(entry, root) for entry in train),
                 "test": tuple(_name(entry, root) for entry in test)}
        faults.note(f"no test split in {root}: {len(test)} of its {len(names)} images are it, drawn by seed {seed} "
                    f"(data.test_share={share:g})")
    elif both := {entry.image for entry in train} & {entry.image for entry in test}:
        faults.note(f"{len(both)} image{'s are' if len(both) > 1 else ' is'} both in the training split and in the "
                    "test split")

    def made(entries: list[Entry], name: str) -> DetectionSet:
        return assemble(entries, classes, faults, name, bool(config.classes), config.get("verify", True))
    return (made(train, config.train_split), made(test, config.test_split),
            made(validation, held_split) if held_split else None, classes, split)


def _validation_names(found: Source, root: Path, held: str, faults: Faults) -> list[str]:
    """The names in `found` of the splits that data.validation_split asks for. Raises UserError as `choose_splits`."""
    def named(text: str) -> str:
        return text.replace("data.train_split", "data.validation_split")
    own = Faults(faults.on_error)
    try:
        names, _ = choose_splits(found, root, held, "", own)
    except UserError as error:
        raise UserError(named(str(error))) from None
    faults.notes += map(named, own.notes)
    return names


def _source(source: str, path: str, faults: Faults) -> tuple[Path, Source]:
    """The folder of the data set at `path`, and its splits. Raises UserError where there is none."""
    root, suffixes = user_path(path), FILES.get(source, ())
    if path and root.is_file() and root.suffix.lower() in suffixes:
        return root.parent, READERS[source](root, faults)
    if not path or not root.is_dir():
        raise UserError(f"data.path {path}: no such folder{f' or file (*{suffixes[0]})' if suffixes else ''}")
    return root, READERS[source](root, faults)


def _name(entry: Entry, root: Path) -> str:
    return Path(os.path.relpath(entry.image, root)).as_posix()


def _classes(trained: Sequence[Part], parts: Sequence[Part], chosen: tuple[str, ...], path: str) -> tuple[str, ...]:
    """The classes `chosen` by data.classes; otherwise those that the training splits give, or the names of all objects,
    sorted. Raises UserError for a chosen one that is not there."""
    given = [part.classes for part in trained if part.classes is not None]
    found = {obj.name for part in parts for entry in part.entries for obj in entry.objects} - {""}
    known = tuple(dict.fromkeys(name for names in given for name in names)) if given else sort_classes(found)
    for name in chosen:
        if name not in known:
            raise UserError(f"data.classes: no object {name!r} in {path}{nearest(name, known)}")
    return chosen or known


def hold_out(data: DetectionSet, count: int, seed: int) -> tuple[DetectionSet, DetectionSet]:
    """A set without `count` of its images, drawn by name and seed, and those. Raises UserError where none would be left
    or none of those has an object that counts."""
    if count >= len(data):
        raise UserError(f"config field 'data.validation': found {count}, but there are {len(data)} training images")
    out = np.array(held_out(data.names, count / len(data), seed, "the training split"))
    kept, held = data.subset(np.flatnonzero(~out)), data.subset(np.flatnonzero(out))
    for images, what in ((kept, "to train on"), (held, "to validate on")):
        if all(objects.difficult.all() for objects in images.objects):
            raise UserError(f"config field 'data.validation': found {count}, which leaves no object {what}; try "
                            "another number")
    return kept, held


# Images

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
                        "mend it, or set data.verify and data.on_error=skip")
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


# Static sizes

def choose_canvas(size: Sequence[int], canvases: Sequence[tuple[int, int]]) -> int:
    """The index of the canvas on which an image of that size is largest. Sizes are (height, width).

    With canvases (600, 1000) and (1000, 600) the scale is that of Fast R-CNN: short side 600, long side at most 1000.
    """
    return max(range(len(canvases)), key=lambda i: min(canvases[i][0] / size[0], canvases[i][1] / size[1]))


def place(image: np.ndarray, canvas: tuple[int, int], scale: float = 1.0, stretch: bool = False,
          ) -> tuple[np.ndarray, np.ndarray]:
    """The image scaled to fit the upper left of a canvas, the rest of which is 0.

    `scale` in (0, 1] makes it smaller than the canvas allows. With `stretch` height and width are scaled each to the
    canvas's, without antialiasing, as SSD and YOLO do. Returns the canvas (H, W, 3) uint8 and the (height, width) int32
    that the image takes on it.
    """
    height, width = image.shape[:2]
    factor = scale * min(canvas[0] / height, canvas[1] / width)
    factors = (scale * canvas[0] / height, scale * canvas[1] / width) if stretch else (factor, factor)
    h, w = (max(1, min(c, round(n * f))) for c, n, f in zip(canvas, (height, width), factors, strict=True))
    if (h, w) != (height, width):
        shrunk = factor < 1 and not stretch
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR)
    out = np.zeros((*canvas, 3), np.uint8)
    out[:h, :w] = image
    return out, np.array([h, w], np.int32)


def fit_canvas(image: np.ndarray, canvases: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The image as large as it can be on the canvas that suits it best: (H, W, 3) uint8 and (2,) int32, as `place`."""
    return place(image, canvases[choose_canvas(image.shape[:2], canvases)])


def rescale_boxes(boxes: np.ndarray, old: Any, new: Any) -> np.ndarray:
    """Boxes (..., 4) of an image of (height, width) `old` on the same image of (height, width) `new`."""
    y, x = new[0] / old[0], new[1] / old[1]
    return (boxes * np.array([x, y, x, y])).astype(np.float32)


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes (..., 4) of an image mirrored left to right."""
    return np.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], -1)


# Batches

class Batches:
    """Training batches as a pure function of the step number: `batches(step)`, or `batches.stream(step)` ahead of time.

    A batch has N images of one canvas: `images` (N, H, W, 3) uint8, `sizes` (N, 2) int32 the height and width that the
    image takes on its canvas, `boxes` (N, G, 4), `classes` (N, G), `difficult` (N, G), `valid` (N, G); G is the
    greatest number of objects of the set, rounded up to a multiple of 8; unused rows are zeros with `valid` False.
    With `proposals`, one (P_i, 4) array an image in its own pixels, also `proposals` (N, P, 4) and
    `proposals_valid` (N, P). `transform` (see `box_transforms`) augments an image and its objects before it is placed;
    proposals would not follow it. `stretch` is that of `place`.
    The images of a canvas are visited once an epoch, in an order of its own; the last batch of an epoch is filled with
    its first images. `steps_per_canvas` consecutive steps, those of one dispatch, share a canvas, which is drawn from
    the seed and their block alone; over as many epochs every canvas has its due share of the steps.
    """

    cache_bytes = 1 << 30

    def __init__(self, data: DetectionSet, canvases: Sequence[tuple[int, int]], batch_size: int, seed: int, *,
                 flip: bool = False, jitter: float = 1.0, proposals: Sequence[np.ndarray] | None = None,
                 transform: Callable[[np.random.Generator, Batch], Batch] | None = None, stretch: bool = False,
                 steps_per_canvas: int = 1) -> None:
        if not 0 < jitter <= 1:
            raise UserError(f"data.jitter: found {jitter}, expected the smallest scale, over 0 and at most 1")
        self.data, self.canvases, self.batch_size, self.seed = data, [(c[0], c[1]) for c in canvases], batch_size, seed
        assert transform is None or proposals is None, "proposals do not follow a transform"
        self.flip, self.jitter, self.proposals = flip, jitter, proposals
        self.transform, self.stretch = transform, stretch
        most = max(len(o.classes) for o in data.objects)
        self.max_objects = max(8, -(-most // 8) * 8)
        self.max_proposals = max(map(len, proposals)) if proposals is not None else 0
        self.canvas_of = np.array([choose_canvas(size, self.canvases) for size in data.sizes])
        groups = [np.flatnonzero(self.canvas_of == c) for c in range(len(self.canvases))]
        self.groups = [group for group in groups if len(group)]
        self.steps_per_epoch = [-(-len(group) // batch_size) for group in self.groups]      # of each group
        self.steps_per_canvas = steps_per_canvas
        self._cache: dict[int, np.ndarray] = {}
        self._room = self.cache_bytes

    def indices(self, step: int) -> np.ndarray:
        """The images (N,) of a step, all of one canvas."""
        block, offset = divmod(step, self.steps_per_canvas)
        # As many blocks as an epoch has steps are that many epochs, whatever the length of a block.
        cycle, turn = divmod(block, sum(self.steps_per_epoch))
        canvases = np.repeat(np.arange(len(self.groups)), self.steps_per_epoch)
        canvases = np.random.default_rng([self.seed, 5, cycle]).permutation(canvases)
        g = int(canvases[turn])
        blocks_before = cycle * self.steps_per_epoch[g] + int(np.count_nonzero(canvases[:turn] == g))
        epoch, position = divmod(blocks_before * self.steps_per_canvas + offset, self.steps_per_epoch[g])
        rng = np.random.default_rng((self.seed, 0, epoch, g))
        order = np.resize(rng.permutation(self.groups[g]), self.steps_per_epoch[g] * self.batch_size)
        return order.reshape(-1, self.batch_size)[rng.permutation(self.steps_per_epoch[g])[position]]

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 1, step])
        rows = [self._example(i, bool(self.flip and rng.random() < 0.5), rng.uniform(self.jitter, 1),
                              np.random.default_rng([self.seed, 6, step, row]))
                for row, i in enumerate(self.indices(step))]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def example(self, i: int) -> Batch:
        """A batch of image i alone, as it is."""
        plain = self._example(i, False, 1.0, np.random.default_rng(0))
        return {key: value[None] for key, value in plain.items()}

    def _example(self, i: int, flip: bool, scale: float, rng: np.random.Generator) -> Batch:
        objects = self.data.objects[i]
        sample = {"image": self._read(i), "boxes": objects.boxes, "classes": objects.classes,
                  "difficult": objects.difficult}
        if self.transform is not None:
            sample = self.transform(rng, sample)
        image, size = place(sample["image"], self.canvases[self.canvas_of[i]], scale, self.stretch)

        def moved(boxes: np.ndarray, rows: int) -> np.ndarray:
            boxes = rescale_boxes(boxes, sample["image"].shape[:2], size)
            return _pad(flip_boxes(boxes, float(size[1])) if flip else boxes, rows)

        if flip:
            image[:, : size[1]] = image[:, : size[1]][:, ::-1].copy()
        count = self.max_objects
        example = {"images": image, "sizes": size, "boxes": moved(sample["boxes"], count),
                   "classes": _pad(sample["classes"], count), "difficult": _pad(sample["difficult"], count),
                   "valid": np.arange(count) < len(sample["classes"])}
        if self.proposals is not None:
            example["proposals"] = moved(self.proposals[i], self.max_proposals)
            example["proposals_valid"] = np.arange(self.max_proposals) < len(self.proposals[i])
        return example

    def _read(self, i: int) -> np.ndarray:
        image = self._cache.get(i)
        if image is None:
            image = self.data.read(i)
            if self._room >= image.nbytes:
                self._room -= image.nbytes
                self._cache[i] = image
        return image

    def stream(self, step: int = 0) -> Iterator[Batch]:
        """The batches from `step` on, made some steps ahead."""
        return ahead_of_time(self, step)


def ahead_of_time(batch: Callable[[int], Batch], step: int) -> Iterator[Batch]:
    """`batch(step)`, `batch(step + 1)`, ..., made by two threads up to four steps ahead."""
    with ThreadPoolExecutor(2) as pool:
        ahead: list[Future[Batch]] = []
        while True:
            while len(ahead) < 4:
                ahead.append(pool.submit(batch, step))
                step += 1
            yield ahead.pop(0).result()


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out


def content_key(image: np.ndarray) -> str:
    """A name for an image by its pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
