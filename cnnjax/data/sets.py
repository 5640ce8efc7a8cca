"""Data sets for classification: images and labels as arrays, by split."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.errors import UserError


class ImageSet(NamedTuple):
    """One split. `images` uint8 (N, H, W, C), in memory or memory-mapped; `labels` int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A classification data set as a run uses it.

    `mean` and `std` are float32 (C,), those of all pixels of `train` in units where 255 is 1.
    """

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    left_out: tuple[str, ...] = ()      # a line for each file or image that is there and not used, broken ones too
    notes: tuple[str, ...] = ()         # a line for each choice that was made here, such as a split drawn by seed
    split: Mapping[str, tuple[str, ...]] = {}       # the files of "train" and "test", where they were drawn by seed

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of what the network is given."""
        return self.train.images.shape[1:]


class Splits(NamedTuple):
    """What a source reads: its splits ("train", "test", perhaps "validation"), class names, and as in `Dataset`."""

    splits: dict[str, ImageSet]
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = {}


class Listing(NamedTuple):
    """Image files by split and class: `files[split][class]` is a sorted list of names within the folder or tar.

    The one split of a set that has none is "". `left_out` has a line for each file that is there and is not read;
    `notes` and `split` are as in `cnnjax.data.Dataset`.
    """

    files: dict[str, dict[str, list[str]]]
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = {}


def summary(lines: Sequence[str], what: str = "left out of the data") -> str:
    """One line that counts `lines` and shows the first three."""
    return f"{len(lines)} {what}: {'; '.join(lines[:3])}{'; ...' if len(lines) > 3 else ''}"


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in order: whole numbers by their value, others by their letters."""
    different = set(names)
    return tuple(sorted(different, key=int if all(name.isdecimal() for name in different) else str))


def check_classes(classes: Sequence[str], where: str) -> None:
    """Raises UserError for a data set of fewer than two classes, on which any network is right."""
    if len(classes) < 2:
        raise UserError(f"data.path: {where} has one class only, {', '.join(map(repr, classes)) or 'none'}; expected "
                        "two or more. Is the path a level too high or too low?")
