"""Convolution whose gradients are fast on a CPU; elsewhere it is XLA's own.

XLA computes the gradient of a kernel as a convolution whose "kernel" is as large as the image: on a CPU at a quarter of
the rate of the forward pass, and inside a loop by a scalar fallback a hundred times slower. Here it is one matrix
product, summed over chunks of the batch that stay in cache.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_NUMBERS = ("NHWC", "HWIO", "NHWC")

_CHUNK_BYTES = (2 << 20, 16 << 20)
"""Patches of one chunk, at least and at most: few where the gradient and the images are small, so that all stay in
cache; many where they are large, since each chunk is added to the whole gradient."""


class _Window(NamedTuple):
    """Where a kernel lies over the image: what a convolution is, apart from its operands."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    precision: Any


def conv_general_dilated(lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any,
                         lhs_dilation: Sequence[int] | None = None, rhs_dilation: Sequence[int] | None = None,
                         dimension_numbers: Any = None, feature_group_count: int = 1, batch_group_count: int = 1,
                         precision: Any = None, preferred_element_type: Any = None) -> jax.Array:
    """`jax.lax.conv_general_dilated`, same arguments and value; reverse-mode gradients are fast on a CPU.

    `(N, H, W, C), (kh, kw, C, O) -> (N, H', W', O)` without dilation, in one to four groups, is accelerated, everything
    else goes to `jax.lax`. Made for `flax.linen.Conv(conv_general_dilated=...)`. Forward-mode derivatives of the
    accelerated case are not defined (`jax.custom_vjp`).
    """
    images = lhs.ndim == 4 and (lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
                                == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NUMBERS))
    if images and 1 < feature_group_count <= 4:
        def xla(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return lax.conv_general_dilated(
                lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, _NUMBERS, feature_group_count,
                batch_group_count, precision, preferred_element_type)

        def cpu(lhs: jax.Array, rhs: jax.Array) -> jax.Array:       # AlexNet's two GPUs are two convolutions
            parts = zip(*(jnp.split(a, feature_group_count, -1) for a in (lhs, rhs)), strict=True)
            return jnp.concatenate([conv_general_dilated(
                x, kernel, window_strides, padding, lhs_dilation, rhs_dilation, _NUMBERS, 1, batch_group_count,
                precision, preferred_element_type) for x, kernel in parts], -1)

        return lax.platform_dependent(lhs, rhs, cpu=cpu, default=xla)
    ones = (*(lhs_dilation or ()), *(rhs_dilation or ()), feature_group_count, batch_group_count)
    if not (images and all(d == 1 for d in ones)
            and preferred_element_type is None and jnp.issubdtype(lhs.dtype, jnp.floating)):
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            batch_group_count, precision, preferred_element_type)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    (sh, sw), ((top, bottom), (left, right)) = window_strides, padding
    return _conv(_Window((sh, sw), ((top, bottom), (left, right)), precision), lhs, rhs)


def _xla(window: _Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, window.strides, window.padding, precision=window.precision,
                                    dimension_numbers=_NUMBERS)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: _Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _xla(window, x, kernel)


def _forward(window: _Window, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(window, x, kernel), (x, kernel)


def _backward(window: _Window, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def xla(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        dx, dkernel = jax.vjp(partial(_xla, window), x, kernel)[1](g)
        return dx, dkernel

    def cpu(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = (kernel.shape[0], kernel.shape[1])
        return (_image_gradient(window, kernel, g, (x.shape[1], x.shape[2])),
                _kernel_gradient(window, x, g, size).astype(kernel.dtype))

    return lax.platform_dependent(x, kernel, g, cpu=cpu, default=xla)


_conv.defvjp(_forward, _backward)


def _image_gradient(window: _Window, kernel: jax.Array, g: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Gradient of the images `(N, H, W, C)`, of `size` (H, W), from the kernel `(kh, kw, C, O)` and `g (N, H', W', O)`.

    A convolution of `g`, spread apart by the stride, with the turned kernel. XLA derives the same with the kernel's
    axes exchanged, a form that its loops compute by the scalar fallback.
    """
    kh, kw = kernel.shape[:2]
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)                           # (kh, kw, O, C)
    pads = [(k - 1 - low, n - 1 - s * (out - 1) + low) for k, n, s, out, (low, _) in
            zip((kh, kw), size, window.strides, g.shape[1:3], window.padding, strict=True)]
    return lax.conv_general_dilated(g, turned, (1, 1), pads, lhs_dilation=window.strides, dimension_numbers=_NUMBERS,
                                    precision=window.precision)


def _kernel_gradient(window: _Window, x: jax.Array, g: jax.Array, kernel: tuple[int, int]) -> jax.Array:
    """Gradient of the kernel, `(kh, kw, C, O)` float32, from images `x (N, H, W, C)` and output gradient
    `g (N, H', W', O)`.

    `dw[i, j, c, o] = sum over n, h, w of x[n, s h + i - p, s w + j - p, c] g[n, h, w, o]`. The shift by `j` is made in
    `x`, the shift by `i` in `g`: the product of `kw C` by `kh O` columns holds all pairs, from 3 + 3 shifted copies
    of a 3x3 kernel rather than 9. With a stride (rows of `g` would meet only every s-th row of `x`), or where `x` is
    narrow (the first layer), both are made in `x`.
    """
    kh, kw = kernel
    (n, height, _, channels), (_, out_height, out_width, filters) = x.shape, g.shape
    (sh, sw), ((top, bottom), (left, right)) = window.strides, window.padding
    split = sh == 1 and kw * channels + kh * filters < kh * kw * channels + filters
    shape = (kw * channels, kh * filters) if split else (kh * kw * channels, filters)

    def columns(x: jax.Array) -> list[jax.Array]:
        """The `kw` shifts of `x` along its width, at the stride: each `(N, rows, W', C)`."""
        x = _pad(x, (0, 0), (left, right))
        return [x[:, :, j:j + sw * (out_width - 1) + 1:sw] for j in range(kw)]

    def product(x: jax.Array, g: jax.Array) -> jax.Array:
        if split:
            g = _pad(g, (kh - 1 - top, kh - 1 - bottom), (0, 0))
            lefts, rights = columns(x), [g[:, kh - 1 - i:kh - 1 - i + height] for i in range(kh)]
        else:
            x = _pad(x, (top, bottom), (0, 0))
            rows = [x[:, i:i + sh * (out_height - 1) + 1:sh] for i in range(kh)]
            lefts, rights = [column for row in rows for column in columns(row)], [g]
        a, b = (jnp.concatenate(parts, -1).reshape(-1, width)
                for parts, width in zip((lefts, rights), shape, strict=True))
        return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=window.precision,
                               preferred_element_type=jnp.float32)

    image = sum(shape) * out_height * out_width * x.dtype.itemsize
    least, most = _CHUNK_BYTES
    chunk = min(max(least, 16 * 4 * shape[0] * shape[1], 4 * image), most)
    if image > chunk and out_height > 1:
        blocks = -(-out_height // max(1, out_height * chunk // image))
        return _kernel_gradient(window._replace(padding=((0, 0), (left, right))),
                                *_row_blocks(x, g, blocks, kh, sh, top), kernel)
    images = max(d for d in range(1, n + 1) if n % d == 0 and (d == 1 or d * image <= chunk))
    chunks = tuple(a.reshape(n // images, images, *a.shape[1:]) for a in (x, g))
    total, _ = lax.scan(lambda total, chunk: (total + product(*chunk), None), jnp.zeros(shape, jnp.float32), chunks)
    if split:
        return total.reshape(kw, channels, kh, filters).transpose(2, 0, 1, 3)
    return total.reshape(kh, kw, channels, filters)


def _row_blocks(x: jax.Array, g: jax.Array, blocks: int, kernel: int, stride: int, top: int
                ) -> tuple[jax.Array, jax.Array]:
    """Large images cut into `blocks` of rows, each block an image: rows of `g`, and the rows of `x` that they saw."""
    rows = -(-g.shape[1] // blocks)
    seen = stride * (rows - 1) + kernel
    g = _pad(g, (0, blocks * rows - g.shape[1]), (0, 0))
    x = _pad(x, (top, stride * rows * (blocks - 1) + seen - top - x.shape[1]), (0, 0))
    x = jnp.stack([x[:, stride * rows * b:stride * rows * b + seen] for b in range(blocks)], 1)
    return x.reshape(-1, *x.shape[2:]), g.reshape(-1, rows, *g.shape[2:])


def _pad(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """`x (N, H, W, C)` with zeros around; a negative amount takes away."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
