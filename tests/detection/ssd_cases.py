"""The inputs of SSD's golden file, made again from their seeds; NumPy alone, so that the maker needs no JAX."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

# A small pyramid: 4 boxes a place of an 8x8 map, 6 of a 4x4 map, on an image of 64 pixels.
SIZE, GRIDS, STEPS, SCALES, RATIOS = 64, (8, 4), (8, 16), (0.2, 0.5, 0.9), ((2,), (2, 3))
BOXES = 8 * 8 * 4 + 4 * 4 * 6
CLASSES = 4                                 # with the background

IMAGE_SIZES = ((375, 500), (640, 427), (200, 200))
"""Of the images for the whole network."""


def objects(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) and labels (G,) from 1 of three images: some, none, and many of which two are alike."""
    rng = np.random.default_rng(seed)
    count = (3, 0, 7)[seed % 3]
    corner, side = rng.uniform(0, 40, (count, 2)), rng.uniform(4, 24, (count, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    if count == 7:
        boxes[3] = boxes[5]
    return boxes, rng.integers(1, CLASSES, count)


def outputs(seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (A, K) and deltas (A, 4) of an image."""
    rng = np.random.default_rng([seed, 1])
    return (rng.normal(0, 2, (BOXES, CLASSES)).astype(np.float32),
            rng.normal(0, scale, (BOXES, 4)).astype(np.float32))


def image(index: int) -> np.ndarray:
    """A random image (H, W, 3) uint8 with structure at several scales."""
    height, width = IMAGE_SIZES[index]
    rng = np.random.default_rng([index, 2])
    blocks = rng.integers(0, 180, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    return (blocks + rng.integers(0, 76, (height, width, 3))).astype(np.uint8)


COLOURS = (("brightness", 0.5), ("brightness", 1.5), ("contrast", 0.5), ("contrast", 1.5), ("saturation", 0.5),
           ("saturation", 1.5), ("hue", -0.05), ("hue", 0.3))
"""Adjustments of colours and their factors."""


def picture() -> np.ndarray:
    """A small random image, some pixels of it grey, black and white."""
    picture = np.random.default_rng(3).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    picture[0, 0], picture[0, 1], picture[0, 2] = 0, 255, 77
    return picture


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Random weights of `ssd300_vgg16` by torchvision's keys, of such a size that scores are spread over [0, 1]."""
    state = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        fan_in = np.prod(shape[1:])
        if key.endswith("scale_weight"):
            value = rng.uniform(10, 30, shape)
        elif key.endswith("bias"):
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.standard_normal(shape, np.float32) * np.sqrt(2 / fan_in)
            if key == "backbone.features.0.weight":             # pixels reach 128
                value = value / 64
            elif "module_list.0" in key:                        # the L2-normalised map has a mean square of 400 / 512
                value = value * 1.5
        state[key] = value.astype(np.float32)
    return state
