"""The inputs of the golden files, made again from their seeds; NumPy alone, so that the maker needs no JAX."""

import zlib

import numpy as np

THRESHOLDS = (0.3, 0.5, 0.7)
KINDS = ("spread", "clusters", "ties", "whole numbers", "all overlapping", "degenerate")


def digest(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def nms_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Boxes (n, 4), scores (n,), classes (n,) and threshold; n is 0 to 3,000, small ones more often."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    n = int(3000 * rng.uniform() ** 3) if seed > 10 else (0, 1, 2, 63, 64, 65, 128, 3000, 2999, 5, 4)[seed]
    size = rng.uniform(8, 200, (n, 2))
    if kind == "clusters":
        centres = rng.uniform(0, 800, (max(n // 20, 1), 2))
        corner = centres[rng.integers(0, len(centres), n)] + rng.normal(0, 5, (n, 2))
        size = 100 + rng.normal(0, 10, (n, 2))
    elif kind == "all overlapping":
        corner, size = rng.uniform(0, 3, (n, 2)), 300 + rng.uniform(0, 3, (n, 2))
    else:
        corner = rng.uniform(0, 800, (n, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    scores = rng.uniform(0, 1, n).astype(np.float32)
    if kind in ("ties", "whole numbers"):
        scores = (scores * 10).round().astype(np.float32) / 10
    if kind == "whole numbers":
        boxes = (boxes / 10).round()
    if kind == "degenerate":
        boxes[::5, 2] = boxes[::5, 0]
        boxes[1::7] = boxes[1::7][:, [2, 1, 0, 3]]
    classes = rng.integers(0, 1 if seed % 4 == 0 else 20, n)
    return boxes, scores, classes, THRESHOLDS[seed // len(KINDS) % len(THRESHOLDS)]


def roi_case() -> tuple[np.ndarray, np.ndarray]:
    """Features (13, 17, 3) without equal values and RoIs (24, 4): within, past the border, reversed, empty."""
    rng = np.random.default_rng(0)
    features = rng.permutation(13 * 17 * 3).reshape(13, 17, 3).astype(np.float32) / 663
    corner = rng.uniform(-40, 240, (24, 2))
    rois = np.concatenate([corner, corner + rng.uniform(-30, 200, (24, 2))], 1)
    rois[0] = rois[0][[0, 1, 0, 1]]
    rois[1] = (-500, -500, -300, -300)
    rois[2] = (-900, -900, 900, 900)
    rois[3] = (24, 40, 56, 72)                                      # halves of cells at 1/16
    rois[4] = (10, 10, 10 + 56 * 16, 10 + 113 * 16)     # 57 and 114 cells: sevenths that round upwards
    return features, rois.astype(np.float32)


ROI_SETTINGS = [((7, 7), 1 / 16), ((7, 5), 1 / 16), ((3, 4), 0.1), ((1, 1), 1 / 8), ((6, 6), 1 / 16)]
ALIGN_SETTINGS = [((7, 7), 1 / 16, 2, True), ((7, 7), 1 / 16, 2, False), ((3, 4), 0.1, 1, True),
                  ((2, 2), 1 / 8, 3, False)]


def coder_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, anchors and deltas (50, 4), some deltas huge."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 500, (2, 50, 2))
    boxes, anchors = np.concatenate([corner, corner + rng.uniform(4, 300, (2, 50, 2))], -1).astype(np.float32)
    deltas = rng.normal(size=(50, 4)) * np.where(np.arange(50) % 10, 0.5, 20)[:, None]
    return boxes, anchors, deltas.astype(np.float32)
