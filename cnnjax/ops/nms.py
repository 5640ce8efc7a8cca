"""Non-maximum suppression, greedy and exact, at static shapes.

Boxes whose score or coordinates are not finite are never kept and never suppress another.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BLOCK = 128
"""Boxes decided at a time; memory is a few `BLOCK * BLOCK` matrices, whatever the number of boxes."""


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


def _suppresses(a: jax.Array, b: jax.Array, threshold: jax.Array, per_class: bool) -> jax.Array:
    """Rows x1, y1, x2, y2, area, class of boxes a, (6, n), and b, (6, m): whose IoU is above the threshold, (n, m).

    The operations and their order are torchvision's, so that the last bit is the same.
    """
    a, b = a[:, :, None], b[:, None, :]
    width = jnp.maximum(jnp.minimum(a[2], b[2]) - jnp.maximum(a[0], b[0]), 0)
    height = jnp.maximum(jnp.minimum(a[3], b[3]) - jnp.maximum(a[1], b[1]), 0)
    intersection = width * height
    above = intersection / (a[4] + b[4] - intersection) > threshold
    return above & (a[5] == b[5]) if per_class else above


def _keep_in_block(block: jax.Array, alive: jax.Array, threshold: jax.Array, per_class: bool) -> jax.Array:
    """Greedy suppression in a block of boxes, best first, given which are not suppressed by earlier ones.

    The rule "kept if alive and no better kept box overlaps" has one solution; iterating it settles at least one more
    box each time, and in practice all after a few.
    """
    better = jnp.triu(_suppresses(block, block, threshold, per_class), 1)       # (i, j): i suppresses j

    def step(state):
        keep, _ = state
        settled = alive & ~jnp.any(better & keep[:, None], 0)
        return settled, jnp.any(settled != keep)

    return lax.while_loop(lambda state: state[1], step, (alive, jnp.array(True)))[0]


def _greedy(boxes, scores, classes, iou_threshold, max_outputs, valid):
    n, per_class = scores.shape[0], classes is not None
    if n == 0 or max_outputs == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    threshold = _threshold(iou_threshold)
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    usable = jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1)
    if valid is not None:
        usable &= valid
    order = jnp.argsort(jnp.where(usable, -scores, jnp.inf), stable=True)       # ties by index
    count = usable.sum()

    block = min(BLOCK, n)
    blocks = -(-n // block)
    x1, y1, x2, y2 = boxes.T
    rows = [x1, y1, x2, y2, (x2 - x1) * (y2 - y1)] + ([classes.astype(jnp.float32)] if per_class else [])
    ranked = jnp.pad(jnp.stack(rows)[:, order], ((0, 0), (0, blocks * block - n)))          # (5 or 6, padded n)
    order = jnp.pad(order, (0, blocks * block - n))

    # Kept boxes lie at the front of `kept`, so each block meets those alone: n * kept / 2 pairs in all.
    room = -(-max_outputs // block) * block + block

    def suppress(c, alive, kept, found, current):
        part = lax.dynamic_slice_in_dim(kept, c * block, block, 1)
        there = c * block + jnp.arange(block) < found
        return alive & ~jnp.any(_suppresses(part, current, threshold, per_class) & there[:, None], 0)

    def body(state):
        b, found, kept, indices = state
        current = lax.dynamic_slice_in_dim(ranked, b * block, block, 1)
        alive = b * block + jnp.arange(block) < count
        alive = lax.fori_loop(0, (found + block - 1) // block,
                              lambda c, alive: suppress(c, alive, kept, found, current), alive)
        keep = _keep_in_block(current, alive, threshold, per_class)
        front = jnp.argsort(~keep, stable=True)
        kept = lax.dynamic_update_slice_in_dim(kept, current[:, front], found, 1)
        chosen = lax.dynamic_slice_in_dim(order, b * block, block, 0)[front]
        indices = lax.dynamic_update_slice_in_dim(indices, chosen, found, 0)
        return b + 1, found + keep.sum(), kept, indices

    state = (0, 0, jnp.zeros((len(rows), room), jnp.float32), jnp.zeros(room, order.dtype))
    _, found, _, indices = lax.while_loop(lambda s: (s[0] * block < count) & (s[1] < max_outputs), body, state)
    there = jnp.arange(max_outputs) < found
    return jnp.where(there, indices[:max_outputs], 0).astype(jnp.int32), there


def nms(boxes: jax.Array, scores: jax.Array, iou_threshold: float | jax.Array, max_outputs: int,
        valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Greedy non-maximum suppression: the boxes that no better kept box overlaps with an IoU above the threshold.

    `(N, 4), (N,) -> (max_outputs,) int32, (max_outputs,) bool`: indices of the kept, best first, equal scores by index,
    and which of them are there; the rest is 0. `valid`, (N,) bool, marks padding. The indices are those of
    `torchvision.ops.nms` cut to max_outputs, and the work stops there.
    """
    return _greedy(boxes, scores, None, iou_threshold, max_outputs, valid)


def batched_nms(boxes: jax.Array, scores: jax.Array, classes: jax.Array, iou_threshold: float | jax.Array,
                max_outputs: int, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """As `nms`, but a box suppresses only boxes of its own class; `classes`, (N,) integers below 2**24.

    The best max_outputs over all classes together.
    """
    return _greedy(boxes, scores, classes, iou_threshold, max_outputs, valid)
