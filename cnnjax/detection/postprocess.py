"""Postprocess class scores and box deltas of RoIs into detections: decode, clip, threshold, NMS per class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection.detector import DetectorOutput
from cnnjax.fields import COUNT, SHARE, setting

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Deltas are divided by standard deviations of 0.1, 0.1, 0.2, 0.2, as the released code of Faster R-CNN has them."""


@dataclass(frozen=True)
class Postprocess:
    """Which boxes are detections; the defaults are those of Fast R-CNN's released code."""

    score_threshold: float = setting(0.05, text="of class scores")
    nms: float = setting(0.3, SHARE, "IoU over which the worse of two boxes of a class is dropped")
    max_detections: int = setting(100, COUNT, "of an image")
    min_size: float = setting(0.0, "[-1, 8192]", "pixels that both sides must exceed; -1: empty boxes stay")


def postprocess(rois: jax.Array, mask: jax.Array, scores: jax.Array, deltas: jax.Array, sizes: jax.Array,
                settings: Postprocess, weights: Sequence[float] = BOX_WEIGHTS) -> DetectorOutput:
    """Detections of a batch: RoIs moved by the deltas of each class, clipped to the image, thresholded, NMS per class.

    `rois` (N, R, 4), `mask` (N, R), `scores` (N, R, K) of the foreground classes, `deltas` (N, R, K, 4), which were
    multiplied by `weights`, `sizes` (N, 2) height and width.
    """
    classes = scores.shape[-1]

    def one(rois: jax.Array, mask: jax.Array, scores: jax.Array, deltas: jax.Array, size: jax.Array) -> DetectorOutput:
        boxes = ops.clip_boxes(ops.decode_boxes(deltas, rois[:, None], weights), size[0], size[1]).reshape(-1, 4)
        label = jnp.tile(jnp.arange(classes), len(rois))
        return best_boxes(boxes, scores.reshape(-1), label, settings, jnp.repeat(mask, classes))

    return each_image(one, rois, mask, scores, deltas, sizes)


def best_boxes(boxes: jax.Array, scores: jax.Array, classes: jax.Array, settings: Postprocess,
               mask: jax.Array | None = None) -> DetectorOutput:
    """The detections among the boxes (B, 4) of one image, of scores and classes (B,): thresholded, NMS per class."""
    usable = (scores > settings.score_threshold) & (boxes[:, 2:] - boxes[:, :2] > settings.min_size).all(-1)
    if mask is not None:
        usable &= mask
    keep, kept = ops.batched_nms(boxes, scores, classes, settings.nms, settings.max_detections, usable)
    return DetectorOutput(boxes[keep], scores[keep], classes[keep], kept)


def each_image(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function` over the leading axis of all arrays. One image is not mapped: a loop such as that of NMS is quicker
    without a batch axis."""
    if len(jax.tree.leaves(arrays)[0]) == 1:
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arrays)))
    return jax.vmap(function)(*arrays)
