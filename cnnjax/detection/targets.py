"""Assign ground truth to anchors and RoIs; sample a minibatch of fixed size."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection.postprocess import BOX_WEIGHTS
from cnnjax.errors import UserError


class Truth(NamedTuple):
    """The ground truth of one image, padded to G objects."""

    boxes: jax.Array        # (G, 4)
    classes: jax.Array      # (G,) int32
    difficult: jax.Array    # (G,) bool: neither positive nor negative
    mask: jax.Array         # (G,) bool, False for padding

    @classmethod
    def of(cls, batch: Any) -> "Truth":
        """Of a minibatch: each array has a leading axis of images."""
        return cls(batch["boxes"], batch["classes"], batch["difficult"], batch["mask"])


class AnchorTargets(NamedTuple):
    """The targets of the anchors of one image."""

    positive: jax.Array     # (A,) bool
    sampled: jax.Array      # (A,) bool: takes part in the loss
    deltas: jax.Array       # (A, 4)


def anchor_targets(key: jax.Array, anchors: jax.Array, size: jax.Array, truth: Truth, settings: Any) -> AnchorTargets:
    """Faster R-CNN, section 3.1.2. `anchors` (A, 4), `size` (2,) height and width.

    Positive: the anchors of the highest IoU with an object, ties included, and those over `settings.positive` (0.7);
    negative: under `settings.negative` (0.3) with all. Anchors that cross the image's side by more than
    `settings.border` pixels or are centred on the padding take no part. `settings.rpn_batch` (256) are sampled, up to
    `settings.rpn_fraction` (a half) of them positive.
    """
    usable = ops.inside_image(anchors, size[0], size[1], settings.border)
    usable &= ops.centred_inside(anchors, size[0], size[1])
    matches = ops.match_boxes(anchors, truth.boxes, truth.mask, settings.positive, settings.negative,
                              best_is_positive=True, ignored=truth.difficult, usable=usable)
    rows, mask = ops.sample_balanced(key, matches.labels, settings.rpn_batch, settings.rpn_fraction)
    sampled = jnp.zeros(len(anchors), bool).at[rows].max(mask)
    positive = sampled & (matches.labels == ops.POSITIVE)
    deltas = ops.encode_boxes(truth.boxes[matches.objects], anchors)
    return AnchorTargets(positive, sampled, jnp.where(positive[:, None], deltas, 0))


def check_background(name: str, background: Sequence[float]) -> None:
    """Raises UserError unless the field `background` of the detector `name` is an interval of IoU."""
    if background[0] >= background[1]:
        raise UserError(f"config field '{name}.background': found {tuple(background)}, expected the lower IoU first")


class RoITargets(NamedTuple):
    """The sampled RoIs of one image and their targets."""

    boxes: jax.Array        # (S, 4)
    mask: jax.Array         # (S,) bool, False for padding
    labels: jax.Array       # (S,) int32: 0 background, 1 + class
    deltas: jax.Array       # (S, 4), divided by their standard deviations


def roi_targets(key: jax.Array, rois: jax.Array, mask: jax.Array, truth: Truth, settings: Any) -> RoITargets:
    """Fast R-CNN, section 2.3. `rois` (R, 4), `mask` (R,).

    The ground truth joins the RoIs. Foreground: IoU of `settings.foreground` (0.5) or more; background: IoU in
    `settings.background` (0.1 to 0.5 in Fast R-CNN, 0 to 0.5 in Faster R-CNN). `settings.rois` (64) are sampled, up to
    `settings.fraction` (a quarter) foreground.
    """
    rois = jnp.concatenate([rois, truth.boxes])                                         # (R + G, 4)
    mask = jnp.concatenate([mask, truth.mask & ~truth.difficult])
    low, high = settings.background
    matches = ops.match_boxes(rois, truth.boxes, truth.mask, settings.foreground, high, low,
                              ignored=truth.difficult, usable=mask)
    rows, sampled = ops.sample_balanced(key, matches.labels, settings.rois, settings.fraction)
    foreground = sampled & (matches.labels[rows] == ops.POSITIVE)
    nearest = matches.objects[rows]
    deltas = ops.encode_boxes(truth.boxes[nearest], rois[rows], BOX_WEIGHTS)
    return RoITargets(rois[rows], sampled, jnp.where(foreground, truth.classes[nearest] + 1, 0),
                      jnp.where(foreground[:, None], deltas, 0))
