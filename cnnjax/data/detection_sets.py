"""Annotated images: the objects of an image, a split, and the splits of a data set.

Boxes are `(x1, y1, x2, y2)`, float32, continuous pixel coordinates from the upper left corner of the upright image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.sets import summary


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
    """The splits of a detection data set, and notes on it, a line each."""

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
