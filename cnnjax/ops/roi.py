"""Pooling of regions of interest. All take `features (H, W, C)` and `rois (R, 4)` in pixels of the image.

Boxes get no gradient, as in the papers' approximate joint training.
"""

import jax
import jax.numpy as jnp
from jax import lax


def _size(output_size: int | tuple[int, int]) -> tuple[int, int]:
    return (output_size, output_size) if isinstance(output_size, int) else output_size


def _bins(start: jax.Array, end: jax.Array, count: int, limit: int) -> tuple[jax.Array, jax.Array]:
    """First and last (exclusive) cell of each of count bins of [start, end], `(R,) -> (R, count)`, cut to the map."""
    length = jnp.maximum(end - start + 1, 1)
    # XLA would multiply by the reciprocal of a constant, which now and then moves a border by a cell; Caffe divides.
    size = (length / lax.optimization_barrier(jnp.full_like(length, count)))[:, None]
    i = jnp.arange(count, dtype=jnp.float32)
    low, high = start[:, None] + jnp.floor(i * size), start[:, None] + jnp.ceil((i + 1) * size)
    return jnp.clip(low, 0, limit).astype(jnp.int32), jnp.clip(high, 0, limit).astype(jnp.int32)


def roi_pool(features: jax.Array, rois: jax.Array, output_size: int | tuple[int, int],
             spatial_scale: float) -> jax.Array:
    """The largest value in each of h x w bins of each RoI, `(R, h, w, C)`: Girshick 2015, "Fast R-CNN", section 2.1.

    Quantised as in Caffe: corners are rounded to cells, halves away from zero, the last cell is included, bins reach
    from the floor to the ceiling of their borders, so that they may overlap, and an empty bin gives 0.
    """
    height, width, _ = features.shape
    h, w = _size(output_size)
    rois = lax.stop_gradient(jnp.asarray(rois, jnp.float32))
    x1, y1, x2, y2 = lax.round(rois * spatial_scale, lax.RoundingMethod.AWAY_FROM_ZERO).T
    top, bottom = _bins(y1, y2, h, height)
    left, right = _bins(x1, x2, w, width)
    lowest = jnp.array(-jnp.inf, features.dtype)

    def pool(bins):
        top, bottom, left, right = bins
        y, x = jnp.arange(height), jnp.arange(width)
        rows = (y >= top[:, None]) & (y < bottom[:, None])          # (h, H)
        columns = (x >= left[:, None]) & (x < right[:, None])       # (w, W)
        out = jnp.where(rows[:, :, None, None], features, lowest).max(1)                   # (h, W, C)
        out = jnp.where(columns[None, :, :, None], out[:, None], lowest).max(2)            # (h, w, C)
        return jnp.where(rows.any(1)[:, None, None] & columns.any(1)[:, None], out, 0)

    return lax.map(pool, (top, bottom, left, right))


def roi_align(features: jax.Array, rois: jax.Array, output_size: int | tuple[int, int], spatial_scale: float,
              sampling_ratio: int = 2, aligned: bool = True) -> jax.Array:
    """The mean of sampling_ratio^2 bilinear samples in each of h x w bins of each RoI, `(R, h, w, C)`.

    He et al. 2017, "Mask R-CNN", section 3. `aligned` shifts by the half pixel that makes cell centres the sampling
    points; without it RoIs are at least one cell large, as torchvision has it.
    """
    height, width, _ = features.shape
    h, w = _size(output_size)
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (lax.stop_gradient(jnp.asarray(rois, jnp.float32)) * spatial_scale - offset).T

    def weights(start, end, count, limit):
        """Bilinear weights of the cells along one axis: `(R,) -> (R, count, limit)`."""
        length = end - start if aligned else jnp.maximum(end - start, 1)
        samples = (jnp.arange(count * sampling_ratio) + 0.5) / sampling_ratio
        at = start[:, None] + samples * (length / count)[:, None]   # (R, count * sampling_ratio)
        there = (at >= -1) & (at <= limit)
        tent = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, limit - 1)[:, :, None] - jnp.arange(limit)), 0)
        tent = jnp.where(there[:, :, None], tent, 0)
        return tent.reshape(-1, count, sampling_ratio, limit).mean(2).astype(features.dtype)

    rows, columns = weights(y1, y2, h, height), weights(x1, x2, w, width)
    out = jnp.einsum("rhy,yxc->rhxc", rows, features)
    return jnp.einsum("rwx,rhxc->rhwc", columns, out)
