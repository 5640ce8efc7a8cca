"""RoI heads: pool each RoI from the levels, a head over it, then class scores and box deltas (Fast R-CNN, figure 1)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection import losses
from cnnjax.detection.backbones import Levels, only
from cnnjax.detection.targets import RoITargets
from cnnjax.errors import UserError

Pool = Callable[[Levels, jax.Array], jax.Array]
"""`(levels, rois (N, R, 4)) -> (N, R, size, size, C)`."""


@dataclass(frozen=True)
class RoIPool:
    """RoIs pooled to size x size cells from the one level that there is. Raises UserError for an unknown `pooling`."""

    size: int
    pooling: str                    # "pool" (Fast R-CNN) or "align" (Mask R-CNN)

    def __post_init__(self) -> None:
        if self.pooling not in ("pool", "align"):
            raise UserError(f"pooling: found {self.pooling!r}, expected 'pool' or 'align'")

    def __call__(self, levels: Levels, rois: jax.Array) -> jax.Array:
        features, stride = only(levels)
        pool = ops.roi_pool if self.pooling == "pool" else ops.roi_align
        return jax.vmap(lambda f, r: pool(f, r, self.size, 1 / stride))(features, rois)


class RoIHeads(nn.Module):
    """Pooling, head and the two sibling layers.

    `(levels, (N, R, 4))` to class scores `(N, R, K + 1)`, background first, and deltas of each class `(N, R, K, 4)`.
    """

    head: nn.Module
    num_classes: int            # without the background
    pool: Pool
    background_box: bool = False        # predicted too, and left out

    def setup(self) -> None:
        self.classes = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))
        self.boxes = nn.Dense(4 * (self.num_classes + self.background_box), kernel_init=nn.initializers.normal(0.001))

    def __call__(self, levels: Levels, rois: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        n, r = rois.shape[:2]
        pooled = self.pool(levels, rois)
        x = self.head(pooled.reshape(n * r, *pooled.shape[2:]), train=train).astype(jnp.float32)    # (N * R, D)
        return self.classes(x).reshape(n, r, -1), self.boxes(x).reshape(n, r, -1, 4)[:, :, -self.num_classes:]


def roi_loss(scores: jax.Array, deltas: jax.Array, targets: RoITargets, axis_name: str | None = None,
             beta: float = 1.0) -> Mapping[str, jax.Array]:
    """The two terms of Fast R-CNN's eq. 1 over all sampled RoIs of the minibatch, `(N, S, K + 1), (N, S, K, 4)`; lambda
    is 1, and smooth L1 bends at `beta`."""
    of_class = jnp.maximum(targets.labels - 1, 0)[..., None, None]
    own = jnp.take_along_axis(deltas, of_class, -2)[..., 0, :]                          # (N, S, 4)
    return {"class_loss": losses.class_loss(scores, targets.labels, targets.mask, axis_name),
            "box_loss": losses.box_loss(own, targets.deltas, targets.labels > 0,
                                        losses.total_count(targets.mask.sum(), axis_name), beta)}
