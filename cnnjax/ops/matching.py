"""IoU matching of boxes with the ground truth, and balanced sampling, at static shapes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.ops.arguments import COUNT, SHARE, checked
from cnnjax.ops.boxes import box_area, box_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    """`labels` (N,) int32: POSITIVE, NEGATIVE or IGNORED; `objects` (N,) int32: the object of the highest IoU, `ious`
    (N,): that IoU. Where nothing is labelled in the image they are 0."""

    labels: jax.Array
    objects: jax.Array
    ious: jax.Array


@partial(jax.jit, static_argnames="best_is_positive")
def match_boxes(boxes: jax.Array, objects: jax.Array, mask: jax.Array, positive: float, negative: float,
                negative_low: float = 0.0, best_is_positive: bool = False, ignored: jax.Array | None = None,
                usable: jax.Array | None = None) -> Matches:
    """Label boxes `(N, 4)` by their IoU with the objects `(M, 4)` of an image, of which `mask` (M,) are no padding.

    POSITIVE at an IoU of `positive` or more, NEGATIVE from `negative_low` up to `negative`, IGNORED between. With
    `best_is_positive` the boxes of the highest IoU with an object, unless that is 0, are POSITIVE too (Faster R-CNN,
    section 3.1.2). `ignored` (M,) marks objects, such as VOC's difficult ones, that are not learnt: a NEGATIVE box
    that lies in one by half or overlaps it at `negative` or more is IGNORED.
    `usable` (N,): other boxes are IGNORED, and are the best of no object.
    """
    learnt = mask if ignored is None else mask & ~ignored
    if usable is None:
        usable = jnp.ones(len(boxes), bool)
    if len(objects) == 0:
        zeros = jnp.zeros(len(boxes))
        labels = jnp.where(usable & (negative_low <= 0), NEGATIVE, IGNORED)
        return Matches(labels.astype(jnp.int32), zeros.astype(jnp.int32), zeros)

    every_iou = box_iou(boxes, objects)                             # (N, M)
    iou = jnp.where(learnt, every_iou, 0)
    best, best_iou = iou.argmax(1).astype(jnp.int32), iou.max(1)
    labels = jnp.where((best_iou >= negative_low) & (best_iou < negative), NEGATIVE, IGNORED)

    if ignored is not None:
        overlap = jax.vmap(lambda o: box_area(_intersection(boxes, o)), out_axes=1)(objects)            # (N, M)
        inside = overlap >= 0.5 * jnp.maximum(box_area(boxes), 1e-6)[:, None]
        near = ((every_iou >= negative) | inside) & mask & ignored
        labels = jnp.where(near.any(1), IGNORED, labels)

    if best_is_positive:
        contender = jnp.where(usable[:, None], iou, 0)
        labels = jnp.where(((contender == contender.max(0)) & (contender > 0)).any(1), POSITIVE, labels)
    labels = jnp.where(best_iou >= positive, POSITIVE, labels)
    return Matches(jnp.where(usable, labels, IGNORED).astype(jnp.int32), best, best_iou)


def _intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], -1)


@checked(size=COUNT, positive_share=SHARE)
@partial(jax.jit, static_argnames=("size", "positive_share"))
def sample_balanced(key: jax.Array, labels: jax.Array, size: int, positive_share: float) -> tuple[jax.Array, jax.Array]:
    """Draw boxes to learn from, uniformly without replacement, `(N,) -> (size,) int32, (size,) bool`.

    Up to `positive_share * size` POSITIVE ones, the rest NEGATIVE ones; positives first. The second result says which
    places could be filled; the others hold 0.
    """
    labels = jnp.pad(labels, (0, max(size - len(labels), 0)), constant_values=IGNORED)
    order = jax.random.uniform(key, labels.shape)                   # in [0, 1)
    positives = jnp.minimum((labels == POSITIVE).sum(), int(positive_share * size))
    positive_rank = jnp.argsort(jnp.argsort(jnp.where(labels == POSITIVE, order, 2)))
    drawn = (labels == POSITIVE) & (positive_rank < positives)
    place = jnp.where(drawn, order, jnp.where(labels == NEGATIVE, 1 + order, 3))
    indices = jnp.argsort(place, stable=True)[:size]
    mask = place[indices] < 3
    return jnp.where(mask, indices, 0).astype(jnp.int32), mask
