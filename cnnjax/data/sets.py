"""What a data source gives: images and labels as arrays, split by name."""

from typing import NamedTuple

import numpy as np


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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of what the network is given."""
        return self.train.images.shape[1:]


class Splits(NamedTuple):
    """What a source reads: its splits ("train", "test", perhaps "validation"), class names and the images left out."""

    splits: dict[str, ImageSet]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
