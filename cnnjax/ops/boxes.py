"""Boxes `(x1, y1, x2, y2)` in pixels, continuous coordinates: the width is `x2 - x1`, with no `+1` anywhere.

All functions take arrays of shape `(..., 4)` and compute in float32, whatever they are given.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax.ops.arguments import POSITIVE, checked

MAX_LOG_SIZE = math.log(1000 / 16)
"""Predicted `dw` and `dh` are held at this value, so that no delta overflows `exp`, as in released codes."""

_TINY = 1e-6  # pixels: keeps the logarithms and quotients of empty and reversed boxes (padding is one) finite


def _corners(boxes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    boxes = jnp.asarray(boxes, jnp.float32)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


@jax.jit
def box_area(boxes: jax.Array) -> jax.Array:
    """`(..., 4) -> (...)`, square pixels; 0 for a reversed box."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.maximum(x2 - x1, 0) * jnp.maximum(y2 - y1, 0)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Intersection and union, square pixels, of boxes that broadcast against each other."""
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
    intersection = width * height
    return intersection, box_area(a) + box_area(b) - intersection


def _quotient(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a / b`, and 0 with a zero gradient where b is 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


@jax.jit
def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of all pairs: `(..., N, 4), (..., M, 4) -> (..., N, M)`; 0 where both are empty."""
    intersection, union = _overlap(a[..., :, None, :], b[..., None, :, :])
    return _quotient(intersection, union)


@jax.jit
def box_giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU of all pairs, in [-1, 1] (Rezatofighi et al. 2019): IoU - share of the hull outside the union."""
    a, b = a[..., :, None, :], b[..., None, :, :]                   # (..., N, 1, 4), (..., 1, M, 4)
    intersection, union = _overlap(a, b)
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    hull = (jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1)) * (jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1))
    return _quotient(intersection, union) - _quotient(hull - union, hull)


@checked(height=POSITIVE, width=POSITIVE)
@jax.jit
def clip_boxes(boxes: jax.Array, height: float | jax.Array, width: float | jax.Array) -> jax.Array:
    """Boxes held inside an image of that many pixels: x in [0, width], y in [0, height]."""
    limit = jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float32) for v in (width, height, width, height))), -1)
    return jnp.clip(jnp.asarray(boxes, jnp.float32), 0, limit)


def _centres(boxes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    x1, y1, x2, y2 = _corners(boxes)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


@jax.jit
def encode_boxes(boxes: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """Deltas `(dx, dy, dw, dh)` that take the anchors to the boxes, times the weights: R-CNN, appendix C, eq. 6-9.

    `(..., 4), (..., 4) -> (..., 4)`. Empty and reversed boxes count as 1e-6 pixels wide or high, so all is finite.
    """
    x, y, w, h = _centres(boxes)
    anchor_x, anchor_y, anchor_w, anchor_h = _centres(anchors)
    w, h, anchor_w, anchor_h = (jnp.maximum(size, _TINY) for size in (w, h, anchor_w, anchor_h))
    deltas = ((x - anchor_x) / anchor_w, (y - anchor_y) / anchor_h, jnp.log(w / anchor_w), jnp.log(h / anchor_h))
    return jnp.stack([weight * delta for weight, delta in zip(weights, deltas, strict=True)], -1)


@jax.jit
def decode_boxes(deltas: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """The boxes that the deltas make of the anchors: R-CNN, appendix C, eq. 1-4; the inverse of `encode_boxes`.

    `(..., 4), (..., 4) -> (..., 4)`. `dw` and `dh` are held at `MAX_LOG_SIZE`: no box grows more than 62.5 times.
    """
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(_corners(deltas), weights, strict=True))
    anchor_x, anchor_y, anchor_w, anchor_h = _centres(anchors)
    x, y = dx * anchor_w + anchor_x, dy * anchor_h + anchor_y
    half_w = 0.5 * (jnp.exp(jnp.minimum(dw, MAX_LOG_SIZE)) * anchor_w)
    half_h = 0.5 * (jnp.exp(jnp.minimum(dh, MAX_LOG_SIZE)) * anchor_h)
    return jnp.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1)


def voc_to_boxes(boxes: jax.Array) -> jax.Array:
    """VOC's corners, 1-based with the last pixel included, to continuous ones: the first two less 1."""
    return jnp.asarray(boxes, jnp.float32) - jnp.array([1, 1, 0, 0], jnp.float32)


def boxes_to_voc(boxes: jax.Array) -> jax.Array:
    """The inverse of `voc_to_boxes`."""
    return jnp.asarray(boxes, jnp.float32) + jnp.array([1, 1, 0, 0], jnp.float32)


def coco_to_boxes(boxes: jax.Array) -> jax.Array:
    """COCO's `(x, y, width, height)` to corners."""
    x, y, w, h = _corners(boxes)
    return jnp.stack([x, y, x + w, y + h], -1)


def boxes_to_coco(boxes: jax.Array) -> jax.Array:
    """The inverse of `coco_to_boxes`."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.stack([x1, y1, x2 - x1, y2 - y1], -1)


def resize_boxes(boxes: jax.Array, scale_y: float | jax.Array, scale_x: float | jax.Array) -> jax.Array:
    """Boxes of an image whose height is multiplied by scale_y and its width by scale_x.

    With `1 / height, 1 / width` the boxes are normalised to [0, 1]; with `height, width` they come back to pixels.
    """
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.stack([x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y], -1)


def flip_boxes(boxes: jax.Array, width: float | jax.Array) -> jax.Array:
    """Boxes of an image of that many pixels mirrored left to right."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.stack([width - x2, y1, width - x1, y2], -1)
