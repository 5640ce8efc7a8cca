"""Data sets for classification: loaded by name, batched, augmented. Those for detection: `cnnjax.data.detection`.

`load(config.data, seed)` reads a source by name into a `Dataset`; `cnnjax.data.batching` brings it to the device and
`cnnjax.data.augment` shuffles, crops and flips inside the training step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import sources
from cnnjax.data.holdout import TEST_SHARE
from cnnjax.data.sets import Dataset, ImageSet, summary
from cnnjax.errors import UserError
from cnnjax.fields import NATURAL, Field, Fields

__all__ = ["Dataset", "ImageSet", "load", "summary"]


FIELDS: Fields = {
    "source": Field("digits", "digits, auto, folder, csv, huggingface, tar, idx, or a TFDS name"),
    "path": Field("", "of the folder, table, tar, idx files or TFDS directory"),
    "cache": Field("", "folder of decoded images; empty: the user's cache directory"),
    "image_size": Field(0, "pixels of a side; 0: as the source has it", "[0, 8192]"),
    "streamed": Field(False, "photographs of any size, decoded and cropped by workers as they come"),
    "ten_crop": Field(False, "of streamed images: evaluate on four corners and centre, mirrored too"),
    "test_share": Field(TEST_SHARE, "of the images, drawn by seed, where a data set has no splits", "(0, 1)"),
    "validation": Field(0, "images held out of the training split", NATURAL),
    "on_error": Field("stop", "or skip: broken images are left out, counted and listed", allowed=("stop", "skip")),
    "pad": Field(4, "random crops from images padded by so many pixels", "[0, 4096]"),
    "flip": Field(True, "random horizontal flips"),
}
"""The group `data` of a classifier's config."""


def load(config: Mapping[str, Any] | ConfigDict, seed: int) -> Dataset:
    """The data set that the `data` part of a config names. Its fields, and what each is when left out:

    source       "digits"; or another of `cnnjax.data.sources.names()`, "auto", a TFDS name ("cifar10") or "tfds:NAME"
    path         ""; the folder, table, tar, folder of idx files or TFDS data_dir
    image_size   0: as the source has them; otherwise the shorter side is resized to this and the centre cut out
    test_share   0.2; of the images of each class, held out for testing where there are no splits
    validation   0; images held out of the training split (He et al. 2016, section 4.2: 5,000 of 50,000)
    cache        ""; folder for decoded images, by default `config.cache_directory()`
    on_error     "stop" at an unreadable image, or "skip" it: left out and listed

    What is there and not used stands in `left_out`, a line each, and what was chosen in `notes`; whoever starts a run
    says both. `seed` only draws the images that `test_share` and `validation` hold out; a source's own split never
    depends on it. With `validation` the training images that stay are copied into memory; a memory-mapped set is
    otherwise left on disk. Raises `UserError` for what the user can correct: an unknown name, missing or broken files,
    a field out of range.
    """
    options = ConfigDict({name: config.get(name, field.default) for name, field in FIELDS.items()})
    if options.image_size < 0 or options.validation < 0:
        raise UserError(f"data.image_size and data.validation must be 0 or more, not {options.image_size} and "
                        f"{options.validation}")
    if options.on_error not in ("stop", "skip"):
        raise UserError(f"data.on_error is {options.on_error!r}; it must be 'stop' or 'skip'")

    options.seed = seed
    read = sources.read(options)
    train, test, validation = read.splits["train"], read.splits["test"], read.splits.get("validation")
    if options.validation:
        if validation is not None:
            raise UserError(f"data.validation={options.validation}, but {options.source} has a validation split of "
                            f"its own ({len(validation.labels)} images): set it to 0")
        train, validation = _hold_out(train, options.validation, seed)
    mean, std = statistics(train.images)
    return Dataset(train, validation, test, read.classes, mean, std, read.left_out, read.notes, read.split)


def _hold_out(train: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """`train` without `count` of its images, and those. Both keep the source's order."""
    total = len(train.labels)
    if count >= total:
        raise UserError(f"data.validation={count} leaves nothing of the {total} training images")
    held = np.zeros(total, bool)
    held[np.random.RandomState(seed % 2**32).permutation(total)[:count]] = True     # RandomState: frozen streams
    return (ImageSet(train.images[~held], train.labels[~held]), ImageSet(train.images[held], train.labels[held]))


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all pixels of uint8 (N, H, W, C), in [0, 1] units: float32 (C,).

    Exact whatever the size, since they come from integer counts. A constant channel has deviation 1, not 0.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    pixels = images.shape[1] * images.shape[2]
    chunk = max(1, 2**22 // pixels)
    for start in range(0, len(images), chunk):
        part = np.asarray(images[start:start + chunk])
        for c in range(channels):
            counts[c] += np.bincount(part[..., c].ravel(), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 1.0)
    return mean.astype(np.float32), std.astype(np.float32)
