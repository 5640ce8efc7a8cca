"""Ways to compute the parts of a convolutional net on a CPU, in turn, against what `cnnjax.ops.conv` does.

    python scripts/bench_conv.py
    python scripts/bench_conv.py --wide

Milliseconds, the fastest of the rounds, and the seconds to compile; batch 128, or the wider layers of ImageNet's nets
and of detectors. The losers stay here so that nobody has to try them again.
"""

import sys
import time
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops import conv as ours
from cnnjax.reporting import tables

WINDOW = ours._Window((1, 1), ((1, 1), (1, 1)), None)
CONTRACT_ROWS = (((0,), (0,)), ((), ()))


def pad(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def shifts(x):
    """The nine shifts of `x (N, H, W, C)`."""
    h, w = x.shape[1:3]
    return [pad(x)[:, i:i + h, j:j + w] for i in range(3) for j in range(3)]


# Gradients of the kernel from x (N, H, W, C) and g (N, H, W, O): (3, 3, C, O)

def gradient_xla(x, g):
    return jax.vjp(partial(ours._xla, WINDOW, x), jnp.zeros((3, 3, x.shape[-1], g.shape[-1])))[1](g)[0]


def gradient_nine_products(x, g):
    c, o = x.shape[-1], g.shape[-1]
    products = [lax.dot_general(s.reshape(-1, c), g.reshape(-1, o), CONTRACT_ROWS) for s in shifts(x)]
    return jnp.stack(products).reshape(3, 3, c, o)


def gradient_im2col(x, g):
    c, o = x.shape[-1], g.shape[-1]
    patches = jnp.concatenate(shifts(x), -1).reshape(-1, 9 * c)
    return lax.dot_general(patches, g.reshape(-1, o), CONTRACT_ROWS).reshape(3, 3, c, o)


def gradient_transposed(x, g):
    """As a forward convolution: channels as batch, images as channels, `g` as kernel."""
    y = lax.conv_general_dilated(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), ((1, 1), (1, 1)),
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.transpose(1, 2, 0, 3)


def gradient_ours(x, g):
    return ours._kernel_gradient(WINDOW, x, g, (3, 3))


def gradient_small_chunks(x, g):
    with mock.patch.object(ours, "_CHUNK_BYTES", (2 << 20, 2 << 20)):
        return gradient_ours(x, g)


def summed(function, chunks):
    """`function` over chunks of the batch, summed in a loop."""
    def loop(x, g):
        parts = tuple(a.reshape(chunks, -1, *a.shape[1:]) for a in (x, g))
        zero = jnp.zeros((3, 3, x.shape[-1], g.shape[-1]))
        return lax.scan(lambda total, part: (total + function(*part), None), zero, parts)[0]
    return loop


# Forward passes of x (N, H, W, C) with a kernel (3, 3, C, O): (N, H, W, O)

forward_xla = partial(ours._xla, WINDOW)


def forward_im2col(x, kernel):
    patches = jnp.concatenate(shifts(x), -1)
    return (patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:3], -1)


def forward_halves(x, kernel):
    """Two convolutions that may run side by side."""
    return jnp.concatenate([ours._xla(WINDOW, half, kernel) for half in jnp.split(x, 2)])


def forward_winograd(x, kernel):
    """F(2x2, 3x3) of Lavin and Gray 2015: 16 products for 4 outputs instead of 36. One axis after the other, which
    compiles in a third of the time of both at once."""
    n, h, w, _ = x.shape

    def image(d, axis, tiles):                  # axes of tiles and of their two pixels, to 4 planes in front
        near, far = (lax.slice_in_dim(d, at, at + tiles, axis=axis) for at in (0, 1))
        (a, b), (c, d) = ([lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1)] for x in (near, far))
        return lax.optimization_barrier(jnp.stack([a - c, b + c, c - b, b - d]))

    def weights(g):                             # 3 planes in front to 4
        half = (g[0] + g[2]) / 2
        return lax.optimization_barrier(jnp.stack([g[0], half + g[1] / 2, half - g[1] / 2, g[2]]))

    def output(m, axis):                        # 4 planes in front to 2 at `axis`
        return lax.optimization_barrier(jnp.stack([m[0] + m[1] + m[2], m[1] - m[2] - m[3]], axis))

    d = pad(x).reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, -1)
    d = image(image(d, 1, h // 2), 3, w // 2)                                   # (4, 4, N, H / 2, W / 2, C)
    g = weights(weights(kernel).swapaxes(0, 1))                                 # (4, 4, C, O)
    m = jnp.einsum("abtc,abco->abto", d.reshape(4, 4, -1, d.shape[-1]), g)
    y = output(output(m.reshape(*d.shape[:-1], -1), 4), 2)                      # (N, H / 2, 2, W / 2, 2, O)
    return y.reshape(n, h, w, -1)


def mapped(function, chunks):
    """`function` over chunks of the batch in a loop."""
    def loop(x, kernel):
        parts = x.reshape(chunks, -1, *x.shape[1:])
        return lax.map(lambda part: function(part, kernel), parts).reshape(*x.shape[:3], -1)
    return loop


# Gradients of the image by g (N, H, W, C) alone, through a kernel of ones

def image_gradient_xla(_, g):
    c = g.shape[-1]
    return jax.vjp(lambda x: ours._xla(WINDOW, x, jnp.ones((3, 3, c, c))), g)[1](g)[0]


def image_gradient_ours(_, g):
    c = g.shape[-1]
    return ours._image_gradient(WINDOW, jnp.ones((3, 3, c, c)), g, g.shape[1:3])


def in_a_loop(function):
    """As a step of training is inside `lax.scan`."""
    def loop(x, g):
        start = jnp.zeros_like(function(x, g))
        return lax.scan(lambda total, _: (total + function(x, g + total.ravel()[0]), None), start, length=1)[0]
    return loop


# Batch normalisation and its gradient, x (N, H, W, C): derived by JAX, and the closed form of the paper

def norm(x, scale, bias):
    mean, square = x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))
    factor = scale * lax.rsqrt(square - jnp.square(mean) + 1e-5)
    return x * factor + (bias - mean * factor)


def norm_derived(x, g):
    ones = jnp.ones(x.shape[-1])
    y, pull = jax.vjp(norm, x, ones, ones)
    return y, *pull(g * (y > 0))


def norm_closed_form(x, g):
    ones, axes, count = jnp.ones(x.shape[-1]), (0, 1, 2), x.size // x.shape[-1]
    y = norm(x, ones, ones)
    g = g * (y > 0)
    mean = x.mean(axes)
    inverse = lax.rsqrt(jnp.square(x).mean(axes) - jnp.square(mean) + 1e-5)
    dbias, dscale = g.sum(axes), (g * ((x - mean) * inverse)).sum(axes)
    slope = -inverse * inverse * dscale / count
    return y, g * inverse + (x * slope - inverse * dbias / count - slope * mean), dscale, dbias


PARTS = {
    "kernel gradient": {
        "XLA": gradient_xla, "nine products": gradient_nine_products, "im2col, one product": gradient_im2col,
        "im2col, 16 chunks": summed(gradient_im2col, 16),
        "transposed convolution, 8 chunks": summed(gradient_transposed, 8), "ours": gradient_ours},
    "forward": {
        "XLA (ours)": forward_xla, "two halves": forward_halves, "im2col, 16 chunks": mapped(forward_im2col, 16),
        "Winograd": forward_winograd, "Winograd, 8 chunks": mapped(forward_winograd, 8)},
    "kernel gradients inside a scan": {
        "XLA": in_a_loop(gradient_xla), "ours": in_a_loop(gradient_ours)},
    "image gradients inside a scan": {
        "XLA": in_a_loop(image_gradient_xla), "ours": in_a_loop(image_gradient_ours)},
    "batch norm, ReLU, both ways": {"derived (ours)": norm_derived, "closed form": norm_closed_form},
}


WIDE = {
    "kernel gradient": {
        "XLA": gradient_xla, "3 + 3 shifts, chunks of 2 MB": gradient_small_chunks, "ours": gradient_ours},
    "forward": {"XLA (ours)": forward_xla, "Winograd": forward_winograd},
}

SHAPES = [(128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64)]
WIDE_SHAPES = [(8, 56, 56, 64), (8, 28, 28, 128), (8, 14, 14, 256), (1, 300, 400, 64), (1, 150, 200, 128),
               (1, 100, 136, 256), (1, 38, 50, 512)]


def measure(parts, shapes, rounds: int) -> list[list[str]]:
    rows: dict[tuple[str, str], list[str]] = {}
    for n, height, width, channels in shapes:
        x, g = jax.random.normal(jax.random.key(0), (2, n, height, width, channels))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
        for part, ways in parts.items():
            args = (x, kernel) if part == "forward" else (x, g)
            compiled, compilation = {}, {}
            for name, way in ways.items():
                began = time.perf_counter()
                compiled[name] = jax.jit(way).lower(*args).compile()
                compilation[name] = time.perf_counter() - began
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            want, *_ = (jax.tree.leaves(run(*args)) for run in compiled.values())
            for name, run in compiled.items():
                for a, b in zip(jax.tree.leaves(run(*args)), want, strict=True):
                    error = float(jnp.abs(a - b).max() / jnp.abs(b).max())
                    assert error < 1e-4, f"{part}, {name}: off by {error:.1e}"
            for _ in range(rounds):
                for name, run in compiled.items():
                    began = time.perf_counter()
                    jax.block_until_ready(run(*args))
                    seconds[name].append(time.perf_counter() - began)
            for name in ways:
                rows.setdefault((part, name), []).append(f"{1e3 * min(seconds[name]):.1f} ({compilation[name]:.1f} s)")
    return [[*key, *row] for key, row in rows.items()]


def main(wide: bool, rounds: int = 7) -> None:
    if not wide:
        x, kernel = jax.random.normal(jax.random.key(0), (128, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
        run = jax.jit(forward_xla).lower(x, kernel).compile()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(20):
            jax.block_until_ready(run(x, kernel))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"A forward convolution, 16x16x32, keeps {processor / wall:.2f} cores busy.")
    parts, shapes = (WIDE, WIDE_SHAPES) if wide else (PARTS, SHAPES)
    tables.show(("part", "way", *("x".join(map(str, shape)) for shape in shapes)), measure(parts, shapes, rounds))


if __name__ == "__main__":
    main("--wide" in sys.argv)
