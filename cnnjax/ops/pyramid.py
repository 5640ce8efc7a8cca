"""Spatial pyramid pooling: He, Zhang, Ren and Sun 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks"."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax.ops.arguments import COUNT, POSITIVE, checked
from cnnjax.ops.roi import roi_pool


@checked(levels=COUNT)
def spatial_pyramid_pool(features: jax.Array, levels: Sequence[int] = (1, 2, 4)) -> jax.Array:
    """The largest value in each bin of l x l bins, for each level l: `(H, W, C) -> (sum(l * l) * C,)`, any H and W.

    Bin i of l reaches from floor(i * size / l) to ceil((i + 1) * size / l) (appendix A), so that no bin is empty; the
    result holds the levels in their order, rows, columns and channels of bins within. Of equal values the first gets
    the gradient.
    """
    height, width, _ = features.shape

    def pool(x: jax.Array, axis: int, size: int, level: int) -> jax.Array:
        bins = [jax.lax.slice_in_dim(x, i * size // level, -(-(i + 1) * size // level), axis=axis)
                for i in range(level)]
        return jnp.stack([_largest(part, axis) for part in bins], axis)

    return jnp.concatenate([pool(pool(features, 0, height, level), 1, width, level).ravel() for level in levels])


def _largest(x: jax.Array, axis: int) -> jax.Array:
    """`x.max(axis)`. The gradient of `max` is shared by the values that equal it, and is NaN where there are none: XLA
    may have computed them and it by other instructions, which round otherwise."""
    first = jax.lax.stop_gradient(x).argmax(axis, keepdims=True)
    return jnp.take_along_axis(x, first, axis, mode="promise_in_bounds").squeeze(axis)


@checked(levels=COUNT, spatial_scale=POSITIVE)
def roi_pyramid_pool(features: jax.Array, rois: jax.Array, spatial_scale: float,
                     levels: Sequence[int] = (1, 2, 3, 6)) -> jax.Array:
    """`spatial_pyramid_pool` of every RoI, `(H, W, C), (R, 4) -> (R, sum(l * l) * C)`; bins as those of `roi_pool`."""
    pooled = [roi_pool(features, rois, level, spatial_scale) for level in levels]
    return jnp.concatenate([x.reshape(len(x), -1) for x in pooled], 1)
