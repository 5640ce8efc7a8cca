"""Non-maximum suppression at static shapes: greedy and exact, and soft.

Boxes whose score or coordinates are not finite are never kept and never suppress another.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.arguments import COUNT, POSITIVE, SHARE, checked
from cnnjax.ops.boxes import box_iou

BLOCK = 64
"""Boxes decided at a time: memory is a few `BLOCK * BLOCK` matrices, however many boxes there are."""


def _threshold(iou_threshold: float | jax.Array) -> jax.Array:
    """The largest float32 that is no greater: an IoU in float32 is above it just when it is above the threshold.

    (torchvision compares in double precision; float32(0.3) is above 0.3.)
    """
    if isinstance(iou_threshold, jax.Array):
        return iou_threshold.astype(jnp.float32)
    rounded = np.float32(iou_threshold)
    if float(rounded) > float(iou_threshold):
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return jnp.float32(rounded)


def _suppresses(a: jax.Array, b: jax.Array, threshold: jax.Array) -> jax.Array:
    """Which of the boxes a, (rows, n), overlap which of b, (rows, m), too much: `(n, m)`.

    Rows are x1, y1, x2, y2, area, place and, if there are classes, class. The operations and their order are
    torchvision's, so that the last bit is the same; areas come ready, so that they are not fused into the sum below.
    """
    a, b = a[:, :, None], b[:, None, :]
    width = jnp.maximum(jnp.minimum(a[2], b[2]) - jnp.maximum(a[0], b[0]), 0)
    height = jnp.maximum(jnp.minimum(a[3], b[3]) - jnp.maximum(a[1], b[1]), 0)
    intersection = width * height
    above = intersection / (a[4] + b[4] - intersection) > threshold
    return above & (a[6] == b[6]) if len(a) > 6 else above


def _keep_in_block(block: jax.Array, alive: jax.Array, threshold: jax.Array) -> jax.Array:
    """Greedy suppression within a block of boxes, best first, given which survived the boxes before it.

    The rule "kept if alive and no better kept box overlaps" has one solution; each iteration settles at least one more
    box, in practice a few iterations settle all.
    """
    better = jnp.triu(_suppresses(block, block, threshold), 1)      # (i, j): i suppresses j

    def step(state):
        keep, _ = state
        settled = alive & ~jnp.any(better & keep[:, None], 0)
        return settled, jnp.any(settled != keep)

    return lax.while_loop(lambda state: state[1], step, (alive, jnp.array(True)))[0]


@partial(jax.jit, static_argnames="max_outputs")
def _greedy(boxes: jax.Array, scores: jax.Array, classes: jax.Array | None, threshold: jax.Array,
            max_outputs: int, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    n = len(scores)
    if n == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    usable = jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1)
    if mask is not None:
        usable &= mask
    order = jnp.argsort(jnp.where(usable, -scores, jnp.inf), stable=True)       # ties by index
    count = usable.sum()

    x1, y1, x2, y2 = boxes[order].T
    rows = [x1, y1, x2, y2, (x2 - x1) * (y2 - y1), order.astype(jnp.float32)]
    if classes is not None:
        rows.append(classes[order].astype(jnp.float32))
    block = min(BLOCK, n)
    ranked = jnp.pad(jnp.stack(rows), ((0, 0), (0, -n % block)))
    place = jnp.arange(block)

    def body(state):
        b, found, kept = state
        current = lax.dynamic_slice_in_dim(ranked, b * block, block, 1)

        def meet(c, alive):
            earlier = lax.dynamic_slice_in_dim(kept, c * block, block, 1)
            mask = c * block + place < found
            return alive & ~jnp.any(_suppresses(earlier, current, threshold) & mask[:, None], 0)

        alive = lax.fori_loop(0, (found + block - 1) // block, meet, b * block + place < count)
        keep = _keep_in_block(current, alive, threshold)
        to_front = keep & (jnp.cumsum(keep) == place[:, None] + 1)  # (i, j): j is the i-th kept; without a sort
        kept = lax.dynamic_update_slice_in_dim(kept, current[:, to_front.argmax(1)], found, 1)
        return b + 1, found + keep.sum(), kept

    # The kept lie at the front, so that a block meets those alone: at most n * kept / 2 pairs in all.
    kept = jnp.zeros((len(rows), max_outputs + 2 * block), jnp.float32)
    _, found, kept = lax.while_loop(lambda s: (s[0] * block < count) & (s[1] < max_outputs), body, (0, 0, kept))
    mask = jnp.arange(max_outputs) < found
    return jnp.where(mask, kept[5, :max_outputs], 0).astype(jnp.int32), mask


@checked(iou_threshold=SHARE, max_outputs=COUNT)
def nms(boxes: jax.Array, scores: jax.Array, iou_threshold: float | jax.Array, max_outputs: int,
        mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Greedy non-maximum suppression: the boxes that no better kept box overlaps with an IoU above the threshold.

    `(N, 4), (N,) -> (max_outputs,) int32, (max_outputs,) bool`: indices of the kept, best first, equal scores by index,
    and their mask; padding is 0. `mask`, (N,) bool, is False for padding among the boxes; N is below 2**24. The indices
    are those of `torchvision.ops.nms` cut to max_outputs, and the work stops there.
    """
    return _greedy(boxes, scores, None, _threshold(iou_threshold), max_outputs, mask)


@checked(iou_threshold=SHARE, max_outputs=COUNT)
def batched_nms(boxes: jax.Array, scores: jax.Array, classes: jax.Array, iou_threshold: float | jax.Array,
                max_outputs: int, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """As `nms`, but a box suppresses only boxes of its own class; `classes`, (N,) integers below 2**24.

    The best max_outputs over all classes together.
    """
    return _greedy(boxes, scores, classes, _threshold(iou_threshold), max_outputs, mask)


@checked(max_outputs=COUNT, sigma=POSITIVE)
@partial(jax.jit, static_argnames="max_outputs")
def soft_nms(boxes: jax.Array, scores: jax.Array, max_outputs: int, sigma: float = 0.5,
             score_threshold: float = 0.001, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Suppression that lowers scores by exp(-IoU^2 / sigma) in place of dropping boxes: Bodla et al. 2017, eq. 3.

    `(N, 4), (N,) -> (max_outputs,) int32, (max_outputs,), (max_outputs,) bool`: indices, best first, lowered scores and
    a mask: those whose lowered score is above the threshold. The rest is 0.
    """
    if len(scores) == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs), jnp.zeros(max_outputs, bool)
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    usable = jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1)
    if mask is not None:
        usable &= mask
    boxes = jnp.where(usable[:, None], boxes, 0)

    def step(scores, _):
        best = scores.argmax()
        score = scores[best]
        iou = box_iou(boxes[best][None], boxes)[0]
        return (scores * jnp.exp(-jnp.square(iou) / sigma)).at[best].set(-jnp.inf), (best, score)

    _, (indices, lowered) = lax.scan(step, jnp.where(usable, scores, -jnp.inf), length=max_outputs)
    mask = lowered > score_threshold
    return jnp.where(mask, indices, 0).astype(jnp.int32), jnp.where(mask, lowered, 0), mask
