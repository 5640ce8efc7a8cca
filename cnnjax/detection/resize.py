"""torchvision's preprocessing of images for its detectors (GeneralizedRCNNTransform)."""

import math

import numpy as np

MULTIPLE = 32
"""Sides are padded to multiples of it, so that all halvings of the network are even."""


def resize_and_pad(image: np.ndarray, short_side: int, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with its short side of that many pixels, or its long side where that would be more; padded with 0.

    `(H, W, 3)` uint8 to a canvas of float32 in [0, 255], the least multiples of 32 that hold it, and the (height,
    width) int32 that it takes there. A program is compiled for each size of canvas: on a larger one the border would
    change the features, and with them the detections.
    """
    size = np.array(image.shape[:2])
    scale = min(short_side / size.min(), long_side / size.max())
    height, width = (max(1, math.floor(float(side) * scale)) for side in size)
    canvas = np.zeros((-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE, 3), np.float32)
    canvas[:height, :width] = resize_bilinear(image, height, width)
    return canvas, np.array([height, width], np.int32)


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`(H, W, C)` to (height, width, C) float32: bilinear between pixel centres, without antialiasing, not rounded."""
    x = image.astype(np.float32)
    for axis, count in ((0, height), (1, width)):
        if x.shape[axis] == count:
            continue
        at = np.maximum((np.arange(count, dtype=np.float32) + 0.5) * np.float32(x.shape[axis] / count) - 0.5, 0)
        low = np.minimum(at.astype(np.int64), x.shape[axis] - 1)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        weight = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x
