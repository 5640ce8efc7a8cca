"""Load the detection data set that a config's group `data` describes: read, split, and some images held out.

Whatever the source (`READERS`, `voc_tfds`, `scatter`), a split becomes a `DetectionSet`. What is wrong with an image or
a box is refused by file name and reason, or skipped, counted and listed, as `data.on_error` says.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import nearest, user_path
from cnnjax.data import coco, formats, huggingface, labelme, synthetic_digits, voc, voc_tfds, yolo
from cnnjax.data.annotations import Entry, Faults, Part, Source, choose_splits, standard_name
from cnnjax.data.assemble import assemble
from cnnjax.data.assemble import probe as probe
from cnnjax.data.assemble import read_image as read_image
from cnnjax.data.canvases import choose_canvas as choose_canvas
from cnnjax.data.canvases import fit_canvas as fit_canvas
from cnnjax.data.canvases import flip_boxes as flip_boxes
from cnnjax.data.canvases import place as place
from cnnjax.data.canvases import rescale_boxes as rescale_boxes
from cnnjax.data.detection_sets import DetectionData, DetectionSet
from cnnjax.data.detection_sets import Objects as Objects
from cnnjax.data.holdout import TEST_SHARE, held_out
from cnnjax.data.minibatches import Batches as Batches
from cnnjax.data.sets import sort_classes
from cnnjax.errors import UserError
from cnnjax.fields import NATURAL, Field, Fields

FIELDS: Fields = {
    "source": Field("voc", "auto, voc, coco, yolo, labelme, huggingface, tfds, or scatter, the embedded set"),
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


READERS: dict[str, Callable[[Path, Faults], Source]] = {
    "voc": voc.read, "coco": coco.read, "yolo": yolo.read, "labelme": labelme.read, "huggingface": huggingface.read}
"""The formats of files, by the name of data.source."""

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
    """The splits of the data set at `path` by their own names, its classes, and its faults and notes.

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
