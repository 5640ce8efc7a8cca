"""Resize images of any size onto canvases of a few static sizes, padded with 0, and scale their boxes alike."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np


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
