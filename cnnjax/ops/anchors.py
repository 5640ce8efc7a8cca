"""Anchors: reference boxes at every place of a feature map (Ren et al. 2015, "Faster R-CNN", section 3.1.1)."""

from collections.abc import Sequence
from functools import partial
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.arguments import COUNT, POSITIVE, checked
from cnnjax.ops.boxes import clip_boxes, decode_boxes
from cnnjax.ops.nms import batched_nms, nms


@checked(stride=POSITIVE, scales=POSITIVE, ratios=POSITIVE)
def base_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float],
                 style: str = "torchvision") -> np.ndarray:
    """The k = len(ratios) * len(scales) anchors of the first place of a map, (k, 4) float32; scales vary fastest.

    A scale is the square root of an anchor's area in pixels (128, 256, 512 in the paper), a ratio its height over its
    width. `style` says where the centre is and what is rounded:
    "torchvision" centres on 0 and rounds corners to whole pixels, as torchvision does;
    "caffe" centres on `(stride - 1) / 2` and rounds the sizes of the smallest, as the paper's released code does, whose
    boxes include their last pixel: with stride 16 and the paper's scales they are its nine literal anchors;
    "centre" centres on `stride / 2`, the middle of the place's pixels, and rounds nothing.
    Raises ValueError for another style.
    """
    scale, ratio = np.asarray(scales, np.float32)[None], np.asarray(ratios, np.float32)[:, None]    # (1, s), (r, 1)
    if style == "caffe":
        width = np.round(np.sqrt(stride**2 / ratio))                # sizes of the base anchor: one stride square
        height = np.round(width * ratio)
        half_w, half_h = ((size * (scale / stride) - 1) / 2 for size in (width, height))
        centre = (stride - 1) / 2
    elif style in ("torchvision", "centre"):
        root = np.sqrt(ratio)
        half_w, half_h = (1 / root) * scale / 2, root * scale / 2   # (r, s)
        if style == "torchvision":
            half_w, half_h = half_w.round(), half_h.round()
        centre = stride / 2 if style == "centre" else 0.0
    else:
        raise ValueError(f'style {style!r}: expected "torchvision", "caffe" or "centre"')
    corners = (centre - half_w, centre - half_h, centre + half_w, centre + half_h)
    return np.stack(corners, -1).reshape(-1, 4).astype(np.float32)


@checked(height=COUNT, width=COUNT, stride=POSITIVE, scales=POSITIVE, ratios=POSITIVE)
def generate_anchors(height: int, width: int, stride: int | tuple[int, int], scales: Sequence[float],
                     ratios: Sequence[float], style: str = "torchvision") -> jax.Array:
    """All anchors of a feature map of that many places, `(height * width * k, 4)` float32, in pixels of the image.

    Places vary in row order, the k anchors of a place (`base_anchors`, whose arguments these are) fastest. Two strides,
    down and across, are for maps that do not divide the image evenly, in the style "torchvision".
    """
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    if down != across and style != "torchvision":
        raise ValueError(f'strides {stride}: anchors of style {style!r} have one, those of "torchvision" may have two')
    y, x = jnp.meshgrid(jnp.arange(height) * down, jnp.arange(width) * across, indexing="ij")       # (height, width)
    shifts = jnp.stack([x, y, x, y], -1).astype(jnp.float32)
    anchors = shifts[:, :, None] + base_anchors(down, scales, ratios, style)                  # (.., .., k, 4)
    return anchors.reshape(-1, 4)


def default_boxes(size: int, grids: Sequence[int], steps: Sequence[float], scales: Sequence[float],
                  ratios: Sequence[Sequence[float]], *, clip: bool = False) -> np.ndarray:
    """SSD's default boxes of all maps, `(A, 4)` float32, in pixels of a square image (Liu et al. 2016, section 2.2).

    Map i has `grids[i]` x `grids[i]` places, `steps[i]` pixels apart, the first centred half a step from the corner.
    Each has 2 + 2 len(ratios[i]) boxes: squares of side `scales[i]` and of the geometric mean of `scales[i]` and
    `scales[i + 1]`, shares of the image's side, then for each ratio a wide and a tall box of the first one's area.
    Places vary in row order, the boxes of a place fastest. With `clip` no side is longer than the image's; boxes reach
    over its border all the same (torchvision).
    """
    boxes = []
    for i, (grid, step) in enumerate(zip(grids, steps, strict=True)):
        sides = [(scales[i], scales[i]), (sqrt(scales[i] * scales[i + 1]),) * 2]
        for ratio in ratios[i]:
            wide = (scales[i] * sqrt(ratio), scales[i] / sqrt(ratio))
            sides += [wide, wide[::-1]]
        half = 0.5 * np.minimum(np.asarray(sides, np.float32), 1 if clip else np.inf)           # (k, 2)
        centre = (np.arange(grid, dtype=np.float32) + np.float32(0.5)) / np.float32(size / step)
        centres = np.stack(np.meshgrid(centre, centre), -1)[:, :, None]                         # (grid, grid, 1, 2)
        boxes.append(np.concatenate([centres - half, centres + half], -1).reshape(-1, 4) * np.float32(size))
    return np.concatenate(boxes).astype(np.float32)


def inside_image(boxes: jax.Array, height: float | jax.Array, width: float | jax.Array,
                 border: float = 0) -> jax.Array:
    """Which boxes, `(..., 4) -> (...)`, cross no side of the image by more than border pixels (section 3.3)."""
    x1, y1, x2, y2 = boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]
    return (x1 >= -border) & (y1 >= -border) & (x2 <= width + border) & (y2 <= height + border)


def centred_inside(boxes: jax.Array, height: float | jax.Array, width: float | jax.Array) -> jax.Array:
    """Which boxes, `(..., 4) -> (...)`, have their centre on the image and not on the padding right of and below it."""
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    return (x < width) & (y < height)


@partial(jax.jit, static_argnames=("pre_nms_top_n", "post_nms_top_n", "iou_threshold", "min_size", "levels"))
def propose_boxes(deltas: jax.Array, scores: jax.Array, anchors: jax.Array, height: float | jax.Array,
                  width: float | jax.Array, *, pre_nms_top_n: int, post_nms_top_n: int, iou_threshold: float = 0.7,
                  min_size: float = 16, levels: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The proposal layer of Faster R-CNN (section 3.3): decode, clip, drop small boxes, keep the top n, NMS.

    `(N, 4), (N,), (N, 4) -> (post_nms_top_n, 4), (post_nms_top_n,), (post_nms_top_n,) bool`: boxes within the image of
    that many pixels, their scores, best first, and the mask of those that are no padding, which is 0. With `levels`,
    how many anchors each level of a feature pyramid has, in order, the top `pre_nms_top_n` are those of each level, and
    NMS is over each level apart (Lin et al. 2017, as torchvision has it, where small boxes count among the top n). What
    is not finite is never proposed. No gradient passes.
    """
    deltas, scores = jax.lax.stop_gradient((deltas, jnp.asarray(scores, jnp.float32)))
    boxes = decode_boxes(deltas, anchors)
    # before clipping makes infinite ones finite
    scores = jnp.where(jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1), scores, -jnp.inf)
    boxes = clip_boxes(boxes, height, width)
    large = (boxes[:, 2] - boxes[:, 0] >= min_size) & (boxes[:, 3] - boxes[:, 1] >= min_size)
    counts = levels or (len(scores),)
    if len(counts) == 1:
        scores = jnp.where(large, scores, -jnp.inf)                 # -inf is not usable in NMS either
    starts = np.cumsum((0, *counts))
    index = jnp.concatenate([start + jax.lax.top_k(scores[start:start + count], min(pre_nms_top_n, count))[1]
                             for start, count in zip(starts, counts, strict=False)])
    boxes, scores = boxes[index], jnp.where(large[index], scores[index], -jnp.inf)
    if len(counts) > 1:
        level = np.repeat(np.arange(len(counts)), [min(pre_nms_top_n, count) for count in counts])
        kept, mask = batched_nms(boxes, scores, jnp.asarray(level), iou_threshold, post_nms_top_n)
    else:
        kept, mask = nms(boxes, scores, iou_threshold, post_nms_top_n)
    return jnp.where(mask[:, None], boxes[kept], 0), jnp.where(mask, scores[kept], 0), mask
