"""What anchors and regions are trained to say: matched with the ground truth, sampled to a fixed size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection.common import BOX_WEIGHTS


class Truth(NamedTuple):
    """The ground truth of one image, padded: the parts of a batch that targets are made from."""

    boxes: jax.Array        # (G, 4)
    classes: jax.Array      # (G,) int32
    difficult: jax.Array    # (G,) bool: neither learnt nor background
    valid: jax.Array        # (G,) bool

    @classmethod
    def of(cls, batch: Any) -> "Truth":
        """That of a batch, each array with a leading axis of images."""
        return cls(batch["boxes"], batch["classes"], batch["difficult"], batch["valid"])


class AnchorTargets(NamedTuple):
    """What the anchors of one image are trained to say."""

    positive: jax.Array     # (A,) bool
    sampled: jax.Array      # (A,) bool: takes part in the loss
    deltas: jax.Array       # (A, 4)


def anchor_targets(key: jax.Array, anchors: jax.Array, size: jax.Array, truth: Truth, settings: Any) -> AnchorTargets:
    """Faster R-CNN, section 3.1.2. `anchors` (A, 4), `size` (2,) height and width.

    Positive: the anchors of the highest IoU with an object, ties included, and those over `settings.positive` (0.7);
    negative: under `settings.negative` (0.3) with all. Anchors that cross the image's side by more than
    `settings.border` pixels take no part. `settings.rpn_batch` (256) are sampled, up to `settings.rpn_fraction` (a
    half) of them positive.
    """
    usable = ops.inside_image(anchors, size[0], size[1], settings.border)
    matches = ops.match_boxes(anchors, truth.boxes, truth.valid, settings.positive, settings.negative,
                              best_is_positive=True, ignored=truth.difficult, usable=usable)
    rows, there = ops.sample_balanced(key, matches.labels, settings.rpn_batch, settings.rpn_fraction)
    sampled = jnp.zeros(len(anchors), bool).at[rows].max(there)
    positive = sampled & (matches.labels == ops.POSITIVE)
    deltas = ops.encode_boxes(truth.boxes[matches.objects], anchors)
    return AnchorTargets(positive, sampled, jnp.where(positive[:, None], deltas, 0))


class RegionTargets(NamedTuple):
    """The sampled regions of one image and what they are trained to say."""

    rois: jax.Array         # (S, 4)
    there: jax.Array        # (S,) bool
    labels: jax.Array       # (S,) int32: 0 background, 1 + class
    deltas: jax.Array       # (S, 4), divided by the deviations


def region_targets(key: jax.Array, rois: jax.Array, there: jax.Array, truth: Truth, settings: Any) -> RegionTargets:
    """Fast R-CNN, section 2.3. `rois` (R, 4), `there` (R,).

    The ground truth joins the regions. Foreground: IoU of `settings.foreground` (0.5) or more; background: IoU in
    `settings.background` (0.1 to 0.5 in Fast R-CNN, 0 to 0.5 in Faster R-CNN). `settings.rois` (64) are sampled, up to
    `settings.fraction` (a quarter) foreground.
    """
    rois = jnp.concatenate([rois, truth.boxes])                                         # (R + G, 4)
    there = jnp.concatenate([there, truth.valid & ~truth.difficult])
    low, high = settings.background
    matches = ops.match_boxes(rois, truth.boxes, truth.valid, settings.foreground, high, low,
                              ignored=truth.difficult, usable=there)
    rows, kept = ops.sample_balanced(key, matches.labels, settings.rois, settings.fraction)
    foreground = kept & (matches.labels[rows] == ops.POSITIVE)
    nearest = matches.objects[rows]
    deltas = ops.encode_boxes(truth.boxes[nearest], rois[rows], BOX_WEIGHTS)
    return RegionTargets(rois[rows], kept, jnp.where(foreground, truth.classes[nearest] + 1, 0),
                         jnp.where(foreground[:, None], deltas, 0))
