"""The region proposal network: Ren, He, Girshick and Sun 2015, "Faster R-CNN", section 3.1."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection.losses import box_loss, objectness_loss
from cnnjax.detection.targets import AnchorTargets
from cnnjax.models.layers import conv


class RPN(nn.Module):
    """A 3x3 convolution, then at every place an objectness and four deltas for each of k anchors (figure 3).

    `(N, H, W, C) -> (N, H * W * k)` logits and `(N, H * W * k, 4)`, in the order of `ops.generate_anchors`. The paper
    scores by a softmax of two; one logit is the same with half the outputs, as its footnote says.
    """

    anchors: int
    channels: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        n = len(features)
        init = nn.initializers.normal(0.01)
        layer = partial(conv, use_bias=True, kernel_init=init, dtype=self.dtype)
        x = nn.relu(layer(self.channels, 3, name="conv")(features))
        objectness = layer(self.anchors, 1, name="objectness")(x)
        deltas = layer(4 * self.anchors, 1, name="deltas")(x)
        return objectness.reshape(n, -1).astype(jnp.float32), deltas.reshape(n, -1, 4).astype(jnp.float32)


class Proposed(NamedTuple):
    """Proposals of one image, best first, padded."""

    boxes: jax.Array        # (P, 4)
    scores: jax.Array       # (P,) logits
    valid: jax.Array        # (P,) bool


def propose(objectness: jax.Array, deltas: jax.Array, anchors: jax.Array, size: jax.Array, settings: Any,
            stage: Any) -> Proposed:
    """The proposals of one image: `objectness` (A,), `deltas` and `anchors` (A, 4), `size` (2,) height and width.

    `stage` says how many go `before` suppression at `settings.rpn_nms` and come `after` it; boxes with a side under
    `settings.smallest` pixels are dropped. No gradient passes through (approximate joint training).
    """
    return Proposed(*ops.propose_boxes(deltas, objectness, anchors, size[0], size[1], before=stage.before,
                                       after=stage.after, iou_threshold=settings.rpn_nms, min_size=settings.smallest))


def rpn_loss(objectness: jax.Array, deltas: jax.Array, targets: AnchorTargets) -> tuple[jax.Array, jax.Array]:
    """Objectness and box loss (eq. 1) over all sampled anchors of the batch, `(N, A), (N, A, 4)`.

    Both are divided by the number of sampled anchors and smooth L1 bends at 1/9, as the released code has it.
    """
    return (objectness_loss(objectness, targets.positive, targets.sampled),
            box_loss(deltas, targets.deltas, targets.positive, targets.sampled.sum(), beta=1 / 9))
