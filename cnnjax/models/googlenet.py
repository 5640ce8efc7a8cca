"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions" (2014)."""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.errors import UserError
from cnnjax.models.alexnet import adaptive_mean, local_response_norm
from cnnjax.models.layers import BatchNorm, conv
from cnnjax.models.sow_feature import sow_feature


class Widths(NamedTuple):
    """Filters of one inception module, in the columns of table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


MODULES = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
"""The nine modules (table 1)."""

xavier = nn.initializers.glorot_uniform()


class Unit(nn.Module):
    """A convolution and its rectifier, with batch norm between them (and no bias then) if asked for.

    `(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), filters)`.
    """

    filters: int
    kernel: int
    stride: int = 1
    batch_norm: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = conv(self.filters, self.kernel, self.stride, use_bias=not self.batch_norm, kernel_init=xavier,
                 dtype=self.dtype, name="conv")(x)
        if self.batch_norm:                                                     # 1e-3: the Inception family's epsilon
            x = BatchNorm(self.bn_axis_name, epsilon=1e-3, name="norm")(x, train=train)
        return nn.relu(x)


class Inception(nn.Module):
    """The inception module (figure 2b): 1x1, 3x3, 5x5 and pooled branches side by side, joined along channels.

    `(N, H, W, C) -> (N, H, W, one + three + five + pool)`. `large_kernel=3` makes the 5x5 branch 3x3.
    """

    widths: Widths
    large_kernel: int = 5
    batch_norm: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def unit(x: jax.Array, filters: int, kernel: int, name: str) -> jax.Array:
            return Unit(filters, kernel, 1, self.batch_norm, self.bn_axis_name, self.dtype, name=name)(x, train=train)

        w = self.widths
        one = unit(x, w.one, 1, "one")
        three = unit(unit(x, w.three_reduce, 1, "three_reduce"), w.three, 3, "three")
        five = unit(unit(x, w.five_reduce, 1, "five_reduce"), w.five, self.large_kernel, "five")
        pool = unit(nn.max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1))), w.pool, 1, "pool")
        return jnp.concatenate([one, three, five, pool], axis=-1)


class Auxiliary(nn.Module):
    """An auxiliary classifier (section 5): average pooling, 1x1 convolution, 1024 hidden units, dropout 0.7, logits.

    `(N, H, W, C) -> (N, num_classes)`, float32. `pool="5x5"`: windows of 5 at stride 3, 14x14 to 4x4; `"4x4"`: a grid
    of 4x4 means over any map, as torchvision.

    Raises UserError for a map smaller than the window.
    """

    num_classes: int
    pool: Literal["5x5", "4x4"] = "5x5"
    batch_norm: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.pool == "5x5" and min(x.shape[1:3]) < 5:
            raise UserError(f"aux_pool='5x5' does not fit on a map of {x.shape[1]}x{x.shape[2]}: set aux_pool='4x4' or "
                            "aux=False")
        x = nn.avg_pool(x, (5, 5), (3, 3)) if self.pool == "5x5" else adaptive_mean(x, 4)
        x = Unit(128, 1, 1, self.batch_norm, self.bn_axis_name, self.dtype, name="conv")(x, train=train)
        x = x.reshape(x.shape[0], -1)                                                          # (N, 4 * 4 * 128)
        x = nn.relu(nn.Dense(1024, kernel_init=xavier, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(0.7, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=xavier, name="fc2")(x.astype(jnp.float32))


class GoogLeNet(nn.Module):
    """GoogLeNet. `(N, H, W, C) -> (N, num_classes)` logits, float32; 224x224 in the paper.

    With `train=True` and `aux` it gives `(logits, aux1, aux2)`, of the heads on modules 4a and 4d in that order; their
    losses count 0.3 each (section 5). With `features=True` it gives the dict of "stem", "3a", "3b", ... "5b".

    `batch_norm` puts batch norm into every convolution and leaves response normalisation out. torchvision's network is
    `batch_norm=True, large_kernel=3, pool4=2, aux_pool="4x4"` (`pool4` is the window between 4e and 5a). `stem="cifar"`
    has a 3x3 first convolution at stride 1 and no pooling after it: 32x32 images give modules 3 16x16, 4 8x8, 5 4x4.
    """

    num_classes: int = 1000
    stem: Literal["imagenet", "cifar"] = "imagenet"
    aux: bool = True
    batch_norm: bool = False
    large_kernel: int = 5
    pool4: int = 3
    aux_pool: Literal["5x5", "4x4"] = "5x5"
    dropout: float = 0.4
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = False) -> Any:
        def unit(x: jax.Array, filters: int, kernel: int, stride: int, name: str) -> jax.Array:
            return Unit(filters, kernel, stride, self.batch_norm, self.bn_axis_name, self.dtype,
                        name=name)(x, train=train)

        def norm(x: jax.Array) -> jax.Array:
            return x if self.batch_norm else local_response_norm(x)

        def head(x: jax.Array, name: str) -> jax.Array:
            return Auxiliary(self.num_classes, self.aux_pool, self.batch_norm, self.bn_axis_name, self.dtype,
                             name=name)(x, train=train)

        x = x.astype(self.dtype)                                                # 224x224
        if self.stem == "imagenet":
            x = unit(x, 64, 7, 2, "conv1")                                      # 112x112
            x = norm(max_pool(x, 3, 2))                                         # 56x56
        else:
            x = norm(unit(x, 64, 3, 1, "conv1"))
        x = unit(x, 64, 1, 1, "conv2_reduce")
        x = norm(unit(x, 192, 3, 1, "conv2"))
        stages = {"stem": sow_feature(self, "stem", x)}
        x = max_pool(stages["stem"], 3, 2)                                      # 28x28
        for name, widths in MODULES.items():
            if name == "4a":
                x = max_pool(x, 3, 2)                                           # 14x14
            elif name == "5a":
                x = max_pool(x, self.pool4, 2)                                  # 7x7
            x = Inception(widths, self.large_kernel, self.batch_norm, self.bn_axis_name, self.dtype,
                          name=f"inception{name}")(x, train=train)
            stages[name] = x = sow_feature(self, name, x)
        if features:
            return stages

        heads = []
        if self.aux and (train or self.is_initializing()):
            heads = [head(stages["4a"], "aux1"), head(stages["4d"], "aux2")]
        x = x.mean((1, 2)).astype(jnp.float32)                                  # (N, 1024)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes, kernel_init=xavier, name="classifier")(x)
        return (logits, *heads) if train and self.aux else logits


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Max pooling whose size rounds up, as this network's tables have it: a last window may hang over the edge.

    `(N, H, W, C) -> (N, ceil((H - window) / stride) + 1, ..., C)`; Caffe's rounding, PyTorch's `ceil_mode=True`.
    """
    over = [-(size - window) % stride for size in x.shape[1:3]]
    return nn.max_pool(x, (window, window), (stride, stride), [(0, o) for o in over])
