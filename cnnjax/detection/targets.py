"""What anchors and regions are trained to say: matching with the ground truth, and sampling of a fixed size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection.common import BOX_WEIGHTS

NEVER = -1.0        # IoU with a ground truth that is padding: under that of any box


def overlaps(boxes: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """IoU of boxes and ground truth, `(B, 4), (G, 4), (G,) -> (B, G)`; -1 where the ground truth is padding."""
    return jnp.where(valid, ops.box_iou(boxes, truth), NEVER)


def sample(key: jax.Array, positive: jax.Array, negative: jax.Array, count: int, most: int,
           ) -> tuple[jax.Array, jax.Array]:
    """`count` rows at random, up to `most` of them positive, filled up with negative ones.

    `(R,), (R,) -> (count,) int32, (count,) bool`: the rows, positive ones first, and which of them are there: fewer
    than `count` when there are not enough. Of each kind all rows are equally likely.
    """
    draw = jax.random.uniform(key, positive.shape)
    ranked = jnp.where(positive, 2 + draw, jnp.where(negative, draw, NEVER))
    order = jnp.argsort(-ranked)
    chosen_positive = positive[order] & (jnp.arange(len(order)) < most)     # positive ones lead
    kept = chosen_positive | (negative & ~positive)[order]
    front = jnp.argsort(~kept, stable=True)[:count]
    rows, there = order[front], kept[front]
    short = count - len(rows)                                               # fewer rows than asked for at all
    return jnp.pad(rows, (0, short)).astype(jnp.int32), jnp.pad(there, (0, short))


class AnchorTargets(NamedTuple):
    """What the anchors of one image are trained to say."""

    positive: jax.Array     # (A,) bool
    sampled: jax.Array      # (A,) bool: takes part in the loss
    deltas: jax.Array       # (A, 4)


def anchor_targets(key: jax.Array, anchors: jax.Array, size: jax.Array, boxes: jax.Array, valid: jax.Array,
                   settings: Any) -> AnchorTargets:
    """Faster R-CNN, section 3.1.2. `anchors` (A, 4), `size` (2,) height and width, `boxes` (G, 4), `valid` (G,).

    Positive: the anchors of the highest IoU with a ground truth, ties included, and those over `settings.positive`
    (0.7); negative: under `settings.negative` (0.3) with all. Anchors that cross the image's side by more than
    `settings.border` take no part. `settings.rpn_batch` (256) are sampled, up to `settings.rpn_fraction` (a half) of
    them positive.
    """
    usable = ops.inside_image(anchors, size[0], size[1], settings.border)
    iou = jnp.where(usable[:, None], overlaps(anchors, boxes, valid), NEVER)            # (A, G)
    matched, best = iou.argmax(1), iou.max(1)
    highest = iou.max(0)                                                                # (G,)
    is_best = ((iou == highest) & (highest > 0)).any(1)
    positive = usable & (is_best | (best >= settings.positive))
    negative = usable & ~positive & (best < settings.negative)
    most = round(settings.rpn_batch * settings.rpn_fraction)
    rows, there = sample(key, positive, negative, settings.rpn_batch, most)
    sampled = jnp.zeros(len(anchors), bool).at[rows].max(there)
    deltas = jnp.where(positive[:, None], ops.encode_boxes(boxes[matched], anchors), 0)
    return AnchorTargets(positive & sampled, sampled, deltas)


class RegionTargets(NamedTuple):
    """The sampled regions of one image and what they are trained to say."""

    rois: jax.Array         # (S, 4)
    there: jax.Array        # (S,) bool
    labels: jax.Array       # (S,) int32: 0 background, 1 + class
    deltas: jax.Array       # (S, 4), divided by the deviations


def region_targets(key: jax.Array, rois: jax.Array, there: jax.Array, boxes: jax.Array, classes: jax.Array,
                   valid: jax.Array, settings: Any) -> RegionTargets:
    """Fast R-CNN, section 2.3. `rois` (R, 4), `there` (R,), `boxes` (G, 4), `classes` (G,), `valid` (G,).

    The ground truth joins the regions. Foreground: IoU of `settings.foreground` (0.5) or more; background: IoU in
    `settings.background` (0.1 to 0.5 in Fast R-CNN, 0 to 0.5 in Faster R-CNN). `settings.rois` (64) are sampled, up to
    `settings.fraction` (a quarter) foreground.
    """
    rois = jnp.concatenate([rois, boxes])                                               # (R + G, 4)
    there = jnp.concatenate([there, valid])
    iou = overlaps(rois, boxes, valid)
    matched, best = iou.argmax(1), jnp.maximum(iou.max(1), 0)
    foreground = there & (best >= settings.foreground)
    low, high = settings.background
    background = there & (best >= low) & (best < high)
    rows, kept = sample(key, foreground, background, settings.rois, round(settings.rois * settings.fraction))
    is_object = foreground[rows] & kept
    truth = matched[rows]
    labels = jnp.where(is_object, classes[truth] + 1, 0)
    deltas = ops.encode_boxes(boxes[truth], rois[rows], BOX_WEIGHTS)
    return RegionTargets(rois[rows], kept, labels, jnp.where(is_object[:, None], deltas, 0))
