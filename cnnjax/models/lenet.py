"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998).

The paper's network (section II.B) is the default. What is mostly called LeNet today is
`LeNet5(c3="full", pooling="average", output="linear")`.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.models.layers import conv
from cnnjax.models.sow_feature import sow_feature
from cnnjax.ops.conv import conv_general_dilated

C3_TABLE = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5),
            (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5))
"""The maps of S2 that each of the 16 maps of C3 is connected to (table I)."""

DIGITS = """
..###.. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..##... ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .###... .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## #.##... .....## .....## ..#.##. ##..... ##..... .....## ##...## ##...##
##...## ..##... ....##. ....##. .##.##. ######. ##..... ....##. .##.##. ##...##
##...## ..##... ...##.. ..###.. .#..##. ##...## ######. ....##. ..###.. .######
##...## ..##... ..##... ....##. ##..##. .....## ##...## ...##.. .##.##. .....##
##...## ..##... .##.... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ..##... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ..##... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ..##... ##..... ##...## ....##. ##...## ##...## .##.... ##...## ....##.
..###.. ######. ####### .#####. ....##. .#####. .#####. .##.... .#####. .####..
"""
"""Stylised digits of 7x12 pixels, drawn in the manner of figure 3 for this project: not the paper's own pixels."""


def scaled_tanh(x: jax.Array) -> jax.Array:
    """`1.7159 tanh(2x / 3)` (appendix A): -1 and 1 go to themselves, where the curvature is greatest."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def codes(num_classes: int) -> np.ndarray:
    """The fixed targets of F6, `(num_classes, 84)` of ±1: the digits' bitmaps for ten classes, random codes otherwise.

    The paper prefers bitmaps because classes that look alike get codes that are alike; classes without such drawings
    get the random codes that it names as the alternative (section II.B), the same at every call.
    """
    if num_classes == 10:
        rows = [line.split() for line in DIGITS.split("\n") if line]                       # 12 rows of 10 x 7 pixels
        pixels = np.array([[list(row[digit]) for row in rows] for digit in range(10)])     # (10, 12, 7)
        return np.where(pixels == "#", 1, -1).reshape(10, 84).astype(np.float32)
    return np.random.default_rng(0).choice([-1, 1], (num_classes, 84)).astype(np.float32)


def fan_in_uniform(fan_in: int | np.ndarray) -> nn.initializers.Initializer:
    """Uniform in ±2.4 / fan-in (appendix A)."""
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.asarray(2.4 / fan_in, dtype)
    return init


class PartialConv(nn.Module):
    """5x5 convolution of 6 maps into 16, each of which sees the maps of `C3_TABLE` alone.

    `(N, H, W, 6) -> (N, H - 4, W - 4, 16)`. Only connections that exist have weights: the kernel is `(5, 5, 60)`.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pairs = [(source, target) for target, sources in enumerate(C3_TABLE) for source in sources]
        fan_in = np.array([25 * len(C3_TABLE[target]) for _, target in pairs])
        kernel = self.param("kernel", fan_in_uniform(fan_in), (5, 5, len(pairs)))
        bias = self.param("bias", nn.initializers.zeros, (16,))
        sources, targets = np.array(pairs).T
        dense = jnp.zeros((5, 5, 6, 16)).at[:, :, sources, targets].set(kernel).astype(self.dtype)
        y = conv_general_dilated(x, dense, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias.astype(self.dtype)


class Subsampling(nn.Module):
    """The sum of each 2x2 square, times a trainable coefficient, plus a trainable bias, one pair a map.

    `(N, H, W, C) -> (N, H // 2, W // 2, C)`.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        coefficient = self.param("coefficient", fan_in_uniform(4), (x.shape[-1],)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
        return coefficient * 4 * nn.avg_pool(x, (2, 2), (2, 2)) + bias


class LeNet5(nn.Module):
    """LeNet-5. `(N, 32, 32, C) -> (N, num_classes)` logits, float32; C is 1 in the paper.

    Images of 28x28 (MNIST) are padded to 32x32 with their edge, which is background. With `features=True` the result is
    the dict of outputs "C1", "S2", "C3", "S4", "C5", "F6", squashed.

    `output="rbf"`: the paper's output i is `y_i = |F6 - code_i|^2` (equation 7), small for the right class. The logits
    are `-y_i`, so softmax cross entropy is `y_right + log sum_i exp(-y_i)`: the paper's discriminative criterion
    (equation 9) without its constant for a "none of these" class. `"linear"`: a trainable linear layer.

    Raises UserError for another image size.
    """

    num_classes: int = 10
    c3: Literal["partial", "full"] = "partial"
    pooling: Literal["trainable", "average"] = "trainable"
    output: Literal["rbf", "linear"] = "rbf"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = False) -> Any:
        if x.shape[1:3] == (28, 28):
            x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        if x.shape[1:3] != (32, 32):
            raise UserError(f"lenet5 takes images of 28x28 or 32x32, found {x.shape[1]}x{x.shape[2]}: resize them")
        x = x.astype(self.dtype)
        stages = {}

        def squash(name: str, x: jax.Array) -> jax.Array:
            stages[name] = sow_feature(self, name, scaled_tanh(x))
            return stages[name]

        def convolve(name: str, x: jax.Array, filters: int) -> jax.Array:
            init = fan_in_uniform(25 * x.shape[-1])
            return conv(filters, 5, padding=0, use_bias=True, kernel_init=init, dtype=self.dtype, name=name)(x)

        def subsample(name: str, x: jax.Array) -> jax.Array:
            if self.pooling == "trainable":
                return squash(name, Subsampling(name=name)(x))
            stages[name] = sow_feature(self, name, nn.avg_pool(x, (2, 2), (2, 2)))
            return stages[name]

        x = squash("C1", convolve("C1", x, 6))                                             # (N, 28, 28, 6)
        x = subsample("S2", x)                                                             # (N, 14, 14, 6)
        x = PartialConv(self.dtype, name="C3")(x) if self.c3 == "partial" else convolve("C3", x, 16)
        x = squash("C3", x)                                                                # (N, 10, 10, 16)
        x = subsample("S4", x)                                                             # (N, 5, 5, 16)
        x = squash("C5", convolve("C5", x, 120))                                           # (N, 1, 1, 120)
        x = x.reshape(x.shape[0], 120)
        x = squash("F6", nn.Dense(84, kernel_init=fan_in_uniform(120), dtype=self.dtype, name="F6")(x))
        if features:
            return stages

        x = x.astype(jnp.float32)
        if self.output == "linear":
            return nn.Dense(self.num_classes, kernel_init=fan_in_uniform(84), name="output")(x)
        centres = codes(self.num_classes)
        with jax.named_scope("output"):                                                    # -|x - c|^2, multiplied out
            return 2 * x @ centres.T - jnp.square(x).sum(-1, keepdims=True) - np.square(centres).sum(-1)
