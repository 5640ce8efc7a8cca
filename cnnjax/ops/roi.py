"""Pooling of regions of interest. All take `features (H, W, C)` and `rois (R, 4)` in pixels of the image.

Boxes get no gradient, as in the papers' approximate joint training.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.arguments import COUNT, POSITIVE, Rule, checked
from cnnjax.ops.boxes import box_area


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


_MAX_LEVEL = 3  # windows of 8 cells: a larger bin takes more of them, in place of more memory
_CHANNELS = 64  # pooled at a time, so that the maxima stay in the cache


def _by_channels(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """`function(*arrays)` made from slices of the last axis, which it leaves apart."""
    channels = arrays[0].shape[-1]
    if channels <= _CHANNELS:
        return function(*arrays)

    def part(at):
        return function(*(lax.dynamic_slice_in_dim(x, at, _CHANNELS, -1) for x in arrays))

    def step(k, out):
        at = jnp.minimum(k * _CHANNELS, channels - _CHANNELS)
        return jax.tree.map(lambda o, p: lax.dynamic_update_slice_in_dim(o, p, at, -1), out, part(at))

    out = jax.tree.map(lambda p: jnp.zeros((*p.shape[:-1], channels), p.dtype), jax.eval_shape(part, 0))
    return lax.fori_loop(0, -(-channels // _CHANNELS), step, out)


class _Windows:
    """A covering of bins by windows of 1, 2, 4, ... cells a side, whose maxima are made once for all bins of all RoIs.

    Two windows a side cover most bins, whatever their size; bins that are large against the map take more. The borders
    are those of `_bins`, (R, h) top and bottom, (R, w) left and right.
    """

    def __init__(self, height: int, width: int, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array):
        def cover(low, high, size):
            # Enough levels for two windows to cover the bins of RoIs within the map.
            levels = min(_MAX_LEVEL, size.bit_length() - 1, (-(-size // low.shape[1]) + 1).bit_length() - 1)
            level = jnp.sum((high - low)[..., None] >= 2 ** jnp.arange(1, levels + 1), -1, dtype=jnp.int32)
            return levels, level, ((high - low + (1 << level) - 1) >> level).max()

        self.height, self.width, self.top, self.bottom, self.left, self.right = height, width, top, bottom, left, right
        self.rows, self.row_level, row_count = cover(top, bottom, height)
        self.columns, self.column_level, self.column_count = cover(left, right, width)
        self.more = jnp.where((row_count > 2) | (self.column_count > 2), row_count * self.column_count, 0)
        self.mask = ((bottom > top)[:, :, None] & (right > left)[:, None])[..., None]          # (R, h, w, 1)

    def table(self, cells: jax.Array, merge: Callable[..., jax.Array]) -> jax.Array:
        """Of cells `(H * W, C)` the windows of all sizes, `(levels * H * W + spare, C)`, one after the other.

        A window is made of two of half its size, side by side or one above the other:
        `merge(cut, table, near, far, here)`, where `cut(table, start)` reads all windows of one size.
        """
        size = self.height * self.width
        levels = np.arange((self.rows + 1) * (self.columns + 1))    # row levels before column levels
        row, column = np.divmod(levels, self.columns + 1)
        near = np.where(row > 0, levels - self.columns - 1, levels - 1) * size
        shift = np.where(row > 0, self.width << np.maximum(row - 1, 0), 1 << np.maximum(column - 1, 0))
        starts = jnp.asarray(np.stack([near, near + shift, levels * size], 1))
        spare = int(shift.max())                                    # windows that cross the map's end are never read

        def cut(table, start):
            return lax.dynamic_slice_in_dim(table, start, size)

        def step(k, table):
            return lax.dynamic_update_slice_in_dim(table, merge(cut, table, *starts[k]), k * size, 0)

        return lax.fori_loop(1, len(levels), step, jnp.pad(cells, ((0, (len(levels) - 1) * size + spare), (0, 0))))

    def maxima(self, cells: jax.Array) -> jax.Array:
        """The table of the windows' largest values."""
        return self.table(cells, lambda cut, table, near, far, _: jnp.maximum(cut(table, near), cut(table, far)))

    def places(self, values: jax.Array) -> jax.Array:
        """The table of the first places (y * W + x) where the windows reach `values`, their maxima."""
        size = self.height * self.width

        def merge(cut, table, near, far, here):
            best = cut(values, here)
            return jnp.minimum(*(jnp.where(cut(values, half) == best, cut(table, half), size) for half in (near, far)))

        return self.table(lax.broadcasted_iota(jnp.int32, (size, values.shape[1]), 0), merge)

    def index(self, i: int | jax.Array, j: int | jax.Array) -> jax.Array:
        """Where `maxima` holds each bin's i-th window from the top and j-th from the left, (R, h, w)."""
        y = jnp.maximum(jnp.minimum(self.top + (i << self.row_level), self.bottom - (1 << self.row_level)), 0)
        x = jnp.maximum(jnp.minimum(self.left + (j << self.column_level), self.right - (1 << self.column_level)), 0)
        level = self.row_level[:, :, None] * (self.columns + 1) + self.column_level[:, None]
        return (level * self.height + y[:, :, None]) * self.width + x[:, None]

    def reduce(self, combine: Callable[[jax.Array, jax.Array], jax.Array],
               read: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """`read(index)` of all windows of each bin, combined."""
        out = reduce(combine, [read(self.index(i, j)) for i in (0, 1) for j in (0, 1)])
        if self.height <= 2 << self.rows and self.width <= 2 << self.columns:
            return out
        return lax.fori_loop(0, self.more, lambda k, out: combine(
            out, read(self.index(k // self.column_count, k % self.column_count))), out)


@jax.custom_vjp
def _pool(features: jax.Array, *borders: jax.Array) -> jax.Array:
    """The largest value of each bin, 0 in an empty one."""
    height, width, _ = features.shape
    windows = _Windows(height, width, *borders)

    def pool(x):
        table = windows.maxima(x.reshape(height * width, -1))
        return jnp.where(windows.mask, windows.reduce(jnp.maximum, lambda at: table.at[at].get(mode="clip")), 0)

    return _by_channels(pool, features)


def _pool_forward(features, *borders):
    out = _pool(features, *borders)
    return out, (features, out, borders)


def _pool_backward(saved, gradient):
    features, out, borders = saved
    height, width, _ = features.shape
    windows = _Windows(height, width, *borders)

    def scatter(x, out, gradient):
        channels = x.shape[-1]
        values = windows.maxima(x.reshape(height * width, channels))
        places = windows.places(values)

        def read(at):
            return jnp.where(values.at[at].get(mode="clip") == out, places.at[at].get(mode="clip"), height * width)

        at = windows.reduce(jnp.minimum, read) * channels + jnp.arange(channels)
        gradient = jnp.where(windows.mask, gradient, 0).astype(jnp.float32)
        x_gradient = jnp.zeros(height * width * channels, jnp.float32).at[at].add(gradient, mode="drop")
        return x_gradient.reshape(x.shape).astype(x.dtype)

    return _by_channels(scatter, features, out, gradient), *[None] * 4


_pool.defvjp(_pool_forward, _pool_backward)


@checked(output_size=COUNT, spatial_scale=POSITIVE)
@partial(jax.jit, static_argnames="output_size")
def roi_pool(features: jax.Array, rois: jax.Array, output_size: int | tuple[int, int],
             spatial_scale: float) -> jax.Array:
    """The largest value in each of h x w bins of each RoI, `(R, h, w, C)`: Girshick 2015, "Fast R-CNN", section 2.1.

    Quantised as in Caffe: corners are rounded to cells, halves away from zero, the last cell is included, bins reach
    from the floor to the ceiling of their borders, so that they may overlap, and an empty bin gives 0. Of equal values
    the first gets the gradient.
    """
    height, width, _ = features.shape
    h, w = _size(output_size)
    rois = lax.stop_gradient(jnp.asarray(rois, jnp.float32))
    x1, y1, x2, y2 = lax.round(rois * spatial_scale, lax.RoundingMethod.AWAY_FROM_ZERO).T
    return _pool(features, *_bins(y1, y2, h, height), *_bins(x1, x2, w, width))


def _weighted_sums(rows: jax.Array, row_weights: jax.Array, columns: jax.Array,
                   column_weights: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """A linear function of cells, `(P, C) -> (R, h, w, C)`: sums of those that begin k rows (R, h, k), as far on as l
    columns (R, w, l)."""

    def apply(cells):
        out = jnp.float32(0)
        for i in range(rows.shape[-1]):
            for j in range(columns.shape[-1]):
                at = rows[:, :, None, i] + columns[:, None, :, j]                       # (R, h, w)
                weight = row_weights[:, :, None, i] * column_weights[:, None, :, j]
                out += weight[..., None] * cells.at[at].get(mode="promise_in_bounds").astype(jnp.float32)
        return out.astype(cells.dtype)

    return apply


@jax.custom_vjp
def _sample(cells: jax.Array, *places: jax.Array) -> jax.Array:
    return _by_channels(_weighted_sums(*places), cells)


def _sample_backward(saved, gradient):
    cells, places = saved                                           # of the cells the shape and dtype alone

    def spread(gradient):
        like = jax.ShapeDtypeStruct((len(cells), gradient.shape[-1]), jnp.float32)
        transposed = jax.linear_transpose(_weighted_sums(*places), like)
        return transposed(gradient.astype(jnp.float32))[0].astype(cells.dtype)

    return _by_channels(spread, gradient), *[None] * 4


_sample.defvjp(lambda cells, *places: (_sample(cells, *places), (cells, places)), _sample_backward)


SAMPLES: Rule = (f"{COUNT[0]}: a number by the size of each bin, as torchvision's 0 and -1, has no static shape",
                 COUNT[1])


@checked(output_size=COUNT, spatial_scale=POSITIVE, sampling_ratio=SAMPLES)
@partial(jax.jit, static_argnames=("output_size", "sampling_ratio", "aligned"))
def roi_align(features: jax.Array, rois: jax.Array, output_size: int | tuple[int, int], spatial_scale: float,
              sampling_ratio: int = 2, aligned: bool = True) -> jax.Array:
    """The mean of sampling_ratio^2 bilinear samples in each of h x w bins of each RoI, `(R, h, w, C)`.

    He et al. 2017, "Mask R-CNN", section 3. `aligned` shifts by the half pixel that makes cell centres the sampling
    points; without it RoIs are at least one cell large, as torchvision has it.
    """
    return multilevel_roi_align([features], rois, jnp.zeros(len(rois), jnp.int32), output_size, [spatial_scale],
                                sampling_ratio, aligned)


@checked(output_size=COUNT, spatial_scales=POSITIVE, sampling_ratio=SAMPLES)
def multilevel_roi_align(levels: Sequence[jax.Array], rois: jax.Array, level: jax.Array,
                         output_size: int | tuple[int, int], spatial_scales: Sequence[float], sampling_ratio: int = 2,
                         aligned: bool = True) -> jax.Array:
    """`roi_align` of each RoI on one of several maps `[(H, W, C), ...]`, which `level` (R,) int32 says.

    All maps' cells are one array, so that each RoI is sampled once, whatever its level.
    """
    h, w = _size(output_size)
    offset = 0.5 if aligned else 0.0
    heights, widths = (np.array([x.shape[axis] for x in levels], np.int32) for axis in (0, 1))
    starts = np.cumsum(heights * widths) - heights * widths
    height, width, start = (jnp.asarray(sizes)[level][:, None, None] for sizes in (heights, widths, starts))
    scale = jnp.asarray(spatial_scales, jnp.float32)[level][:, None]
    x1, y1, x2, y2 = (lax.stop_gradient(jnp.asarray(rois, jnp.float32)) * scale - offset).T

    def places(start, end, count, limit):
        """Along one axis, the cells next to a bin's samples and their weights, (R, count, 2 * sampling_ratio)."""
        limit = limit[..., 0]
        length = end - start if aligned else jnp.maximum(end - start, 1)
        samples = (jnp.arange(count * sampling_ratio) + 0.5) / sampling_ratio
        at = start[:, None] + samples * (length / count)[:, None]   # (R, count * sampling_ratio)
        inside = (at >= -1) & (at <= limit)
        at = jnp.clip(at, 0, limit - 1)
        low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, limit - 1)
        high = jnp.minimum(low + 1, limit - 1)
        weight = jnp.stack([1 - (at - low), at - low], -1) / sampling_ratio
        weight = jnp.where(inside[..., None], weight, 0)
        return (cell.reshape(-1, count, 2 * sampling_ratio) for cell in (jnp.stack([low, high], -1), weight))

    rows, row_weights = places(y1, y2, h, height)
    columns, column_weights = places(x1, x2, w, width)
    cells = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in levels])
    return _sample(cells, start + rows * width, row_weights, columns, column_weights)


@checked(output_size=COUNT)
@partial(jax.jit, static_argnames=("output_size", "context"))
def roi_warp(image: jax.Array, rois: jax.Array, output_size: int | tuple[int, int], context: int = 0,
             fill: float = 0.0) -> jax.Array:
    """Each RoI of an image `(H, W, C)` warped to h x w pixels whatever its shape, `(R, h, w, C)`.

    R-CNN, appendix A: the box is enlarged so that `context` pixels of the result surround it on every side; what lies
    outside the image is `fill` (0 where the mean has been taken off). Bilinear, without smoothing. An empty box counts
    as one pixel.
    """
    height, width, _ = image.shape
    h, w = _size(output_size)
    x1, y1, x2, y2 = lax.stop_gradient(jnp.asarray(rois, jnp.float32)).T

    def weights(start, end, count, limit):
        length = jnp.maximum(end - start, 1)
        step = length / (count - 2 * context)                       # pixels of the image to one of the result
        at = (start - context * step)[:, None] + (jnp.arange(count) + 0.5) * step[:, None] - 0.5
        inside = (at > -1) & (at < limit)
        tent = jnp.maximum(1 - jnp.abs(at[:, :, None] - jnp.arange(limit)), 0)          # (R, count, limit)
        return jnp.where(inside[:, :, None], tent, 0).astype(image.dtype)

    rows, columns = weights(y1, y2, h, height), weights(x1, x2, w, width)
    out = jnp.einsum("rhy,yxc,rwx->rhwc", rows, image, columns)
    covered = rows.sum(2)[:, :, None, None] * columns.sum(2)[:, None, :, None]
    return out + (1 - covered) * fill


def pyramid_level(rois: jax.Array, lowest: int = 2, highest: int = 5, canonical_level: int = 4,
                  canonical_size: float = 224) -> jax.Array:
    """The level of a feature pyramid that each RoI is pooled from, `(R, 4) -> (R,) int32`: Lin et al. 2017, eq. 1."""
    size = jnp.sqrt(box_area(rois))
    level = canonical_level + jnp.log2(jnp.maximum(size, 1e-6) / canonical_size)
    return jnp.clip(jnp.floor(level + 1e-6), lowest, highest).astype(jnp.int32)         # 224 is not 223.99
