"""The region proposal network: Ren, He, Girshick and Sun 2015, "Faster R-CNN", section 3.1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection import losses
from cnnjax.detection.backbones import Levels
from cnnjax.detection.postprocess import each_image
from cnnjax.detection.targets import AnchorTargets
from cnnjax.fields import COUNT, setting
from cnnjax.models.layers import conv


@dataclass(frozen=True)
class Anchors:
    """Anchors of the same scales (pixels) and ratios (height over width) at every place of every level."""

    scales: Sequence[float]
    ratios: Sequence[float]
    style: str                      # of `ops.base_anchors`

    @property
    def per_place(self) -> int:
        return len(self.scales) * len(self.ratios)

    def __call__(self, image: tuple[int, int], levels: Levels) -> list[jax.Array]:
        """The anchors (h * w * k, 4) of each level, for images of that height and width."""
        return [ops.generate_anchors(features.shape[1], features.shape[2], stride, self.scales, self.ratios, self.style)
                for features, stride in levels.values()]


class RPNOutput(NamedTuple):
    """What the network says of the anchors of all levels, one level after the other."""

    objectness: jax.Array       # (N, A) logits
    deltas: jax.Array           # (N, A, 4)
    anchors: jax.Array          # (A, 4)
    levels: tuple[int, ...]     # how many anchors each level has


class RPN(nn.Module):
    """A 3x3 convolution, then at every place an objectness and four deltas for each of k anchors (figure 3).

    All levels share its weights. The paper scores by a softmax of two; one logit is the same with half the outputs, as
    its footnote says. `anchors(image, levels)` gives those of each level, `anchors.per_place` of them a place.
    """

    anchors: Any
    channels: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels, image: tuple[int, int]) -> RPNOutput:
        layer = partial(conv, use_bias=True, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        hidden = layer(self.channels, 3, name="conv")
        objectness_layer = layer(self.anchors.per_place, 1, name="objectness")
        deltas_layer = layer(4 * self.anchors.per_place, 1, name="deltas")
        objectness, deltas = [], []
        for features, _ in levels.values():
            x = nn.relu(hidden(features))
            objectness.append(objectness_layer(x).reshape(len(x), -1).astype(jnp.float32))
            deltas.append(deltas_layer(x).reshape(len(x), -1, 4).astype(jnp.float32))
        return RPNOutput(jnp.concatenate(objectness, 1), jnp.concatenate(deltas, 1),
                         jnp.concatenate(self.anchors(image, levels)), tuple(x.shape[1] for x in objectness))


@dataclass(frozen=True)
class TopN:
    """How many boxes of a level, by objectness, go into NMS, and how many of an image come out."""

    pre_nms_top_n: int = setting(6000, COUNT, "best anchors of each level that NMS is given")
    post_nms_top_n: int = setting(300, COUNT, "proposals that it leaves")


class Proposals(NamedTuple):
    """Proposals of each image, best first, padded."""

    boxes: jax.Array        # (N, P, 4)
    scores: jax.Array       # (N, P) logits
    mask: jax.Array         # (N, P) bool


def propose(output: RPNOutput, sizes: jax.Array, top_n: TopN, iou_threshold: float, min_size: float) -> Proposals:
    """The proposals of each image, of heights and widths `sizes` (N, 2): see `ops.propose_boxes`.

    Boxes with a side under `min_size` pixels are dropped, and by NMS those that overlap a better one with an IoU over
    the threshold. No gradient passes through (approximate joint training).
    """
    def one(objectness: jax.Array, deltas: jax.Array, size: jax.Array) -> Proposals:
        return Proposals(*ops.propose_boxes(
            deltas, objectness, output.anchors, size[0], size[1], pre_nms_top_n=top_n.pre_nms_top_n,
            post_nms_top_n=top_n.post_nms_top_n, iou_threshold=iou_threshold, min_size=min_size,
            levels=output.levels))
    return each_image(one, output.objectness, output.deltas, sizes)


def rpn_loss(output: RPNOutput, targets: AnchorTargets, axis_name: str | None = None) -> Mapping[str, jax.Array]:
    """Objectness and box loss (eq. 1) over all sampled anchors of the minibatch, targets (N, A), (N, A, 4).

    Both are divided by the number of sampled anchors and smooth L1 bends at 1/9, as the released code has it.
    """
    return {"objectness_loss": losses.objectness_loss(output.objectness, targets.positive, targets.sampled, axis_name),
            "rpn_box_loss": losses.box_loss(output.deltas, targets.deltas, targets.positive,
                                            losses.total_count(targets.sampled.sum(), axis_name), beta=1 / 9)}
