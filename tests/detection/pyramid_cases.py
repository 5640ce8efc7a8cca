"""The inputs of golden_pyramids.npz, made again from their seeds; NumPy alone, so that the maker needs no JAX."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IMAGE, GRIDS = (64, 96), ((8, 12), (4, 6), (2, 3))
SIZES, RATIOS = ((16.0, 20.0), (32.0, 40.0), (64.0, 80.0)), (0.5, 1.0, 2.0)
"""A small pyramid: of an image of 64x96 pixels, three levels with six anchors a place."""

COUNTS = tuple(6 * h * w for h, w in GRIDS)
CLASSES = 4

CHANNELS, SHORT, LONG = 16, 96, 144
"""Of the whole networks over ResNet-18: the pyramid's channels, and to what sides images are resized."""

IMAGE_SIZES = ((90, 130), (150, 100), (41, 300))

FACTORS = {"retinanet": ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
           "fasterrcnn": ("rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_predictor.cls_score",
                          "roi_heads.box_predictor.bbox_pred")}
"""The last layers of each network, whose random weights are multiplied by a factor that spreads their output."""


def objects(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) and labels (G,) from 0 of three images: some, none, and many of which two are alike."""
    rng = np.random.default_rng(seed)
    count = (3, 0, 7)[seed % 3]
    corner, side = rng.uniform(0, 60, (count, 2)) * (1, 0.6), rng.uniform(6, 34, (count, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    if count == 7:
        boxes[3] = boxes[5]
    return boxes, rng.integers(0, CLASSES, count)


def outputs(seed: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (A, columns) and deltas (A, 4) of the anchors of an image."""
    rng = np.random.default_rng([seed, 1])
    return (rng.normal(-2, 2, (sum(COUNTS), columns)).astype(np.float32),
            rng.normal(0, 0.5, (sum(COUNTS), 4)).astype(np.float32))


def rois() -> tuple[list[np.ndarray], np.ndarray]:
    """Maps [(h, w, 3), ...] of strides 4, 8 and 16 of an image of 64x96, and RoIs (R, 4) of all sizes."""
    rng = np.random.default_rng(7)
    maps = [rng.normal(size=(64 // s, 96 // s, 3)).astype(np.float32) for s in (4, 8, 16)]
    corner, side = rng.uniform(-10, 80, (40, 2)), 2 ** rng.uniform(0, 7, (40, 2))
    return maps, np.concatenate([corner, corner + side], 1).astype(np.float32)


def image(index: int) -> np.ndarray:
    """A random image (H, W, 3) uint8 with structure at several scales."""
    height, width = IMAGE_SIZES[index]
    rng = np.random.default_rng([index, 2])
    blocks = rng.integers(0, 180, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    return (blocks + rng.integers(0, 76, (height, width, 3))).astype(np.uint8)


def weights(shapes: Mapping[str, Sequence[int]], factors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """A random state dict; `factors` are those of last layers. The first variances are small: an epsilon tells."""
    state = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        layer, leaf = key.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            state[key] = np.zeros((), np.int64)
            continue
        if leaf == "running_var" or (len(shape) == 1 and leaf == "weight"):
            value = rng.uniform(0.5, 1.5, shape) * (1e-4 if layer == "backbone.body.bn1" and leaf == "running_var" else
                                                    1e-2 if layer == "backbone.body.bn1" else 1)
        elif len(shape) == 1:
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:])) * factors.get(layer, 1)
        state[key] = value.astype(np.float32)
    return state


def old_keys(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict by the keys of torchvision before 0.13."""
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[1:3] in (["fpn", "inner_blocks"], ["fpn", "layer_blocks"]):
            del parts[4]
        elif parts[:3] == ["rpn", "head", "conv"]:
            del parts[3:5]
        elif parts[1:3] in (["classification_head", "conv"], ["regression_head", "conv"]):
            parts[3:5] = [str(2 * int(parts[3]))]
        old[".".join(parts)] = value
    return old
