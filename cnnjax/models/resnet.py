"""Plain and residual networks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015).

A plain net is the same network with its shortcuts taken away, so one module makes both: `residual=False`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.layers import BatchNorm, conv
from cnnjax.models.sow_feature import sow_feature


class Block(nn.Module):
    """One block: basic, two 3x3 convolutions, or bottleneck, 1x1 down, 3x3, 1x1 up to four times the filters.

    `(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), filters)`; a bottleneck gives `4 * filters`. The paper
    strides in the first convolution; `stride_in_3x3` moves a bottleneck's stride to its 3x3 (torchvision, "v1.5").
    `shortcut` is the option of section 3.3 where the shape changes. A: subsample and pad new channels with zeros, half
    of them before and half after, without parameters; B: 1x1 projection; C: projections everywhere.
    """

    filters: int
    stride: int = 1
    bottleneck: bool = False
    residual: bool = True
    shortcut: Literal["A", "B", "C"] = "A"
    zero_init: bool = False
    stride_in_3x3: bool = False
    norm_epsilon: float = 1e-5
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv_norm(x, filters, kernel, stride, name, **norm_fields):
            x = conv(filters, kernel, stride, dtype=self.dtype, name=f"conv{name}")(x)
            norm = BatchNorm(self.bn_axis_name, epsilon=self.norm_epsilon, name=f"norm{name}", **norm_fields)
            return norm(x, train=train)

        last = {"scale_init": nn.initializers.zeros} if self.zero_init else {}
        if self.bottleneck:
            first, second = (1, self.stride) if self.stride_in_3x3 else (self.stride, 1)
            y = nn.relu(conv_norm(x, self.filters, 1, first, 1))
            y = nn.relu(conv_norm(y, self.filters, 3, second, 2))
            y = conv_norm(y, 4 * self.filters, 1, 1, 3, **last)
        else:
            y = nn.relu(conv_norm(x, self.filters, 3, self.stride, 1))
            y = conv_norm(y, self.filters, 3, 1, 2, **last)

        if self.residual:
            filters = y.shape[-1]
            if self.shortcut == "C" or (self.shortcut == "B" and x.shape != y.shape):
                x = conv_norm(x, filters, 1, self.stride, "_shortcut")
            elif x.shape != y.shape:
                x = subsample_and_pad(x, self.stride, filters)
            y += x
        return nn.relu(y)


def subsample_and_pad(x: jax.Array, stride: int, filters: int) -> jax.Array:
    """The shortcut of option A: `(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), filters)`, no parameters."""
    x = x[:, ::stride, ::stride]
    new = filters - x.shape[-1]             # on both sides, so that PyTorch's CIFAR weights fit as they are
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class ResNet(nn.Module):
    """Stem, stages of blocks, global average pooling, linear classifier.

    `(N, H, W, C) -> (N, num_classes)` logits, float32. Stage s of `blocks[s]` blocks has `width * 2**s` filters and
    halves the map, but for the first. `stem` is "cifar" (3x3, section 4.2) or "imagenet" (7x7 stride 2, 3x3 max pooling
    stride 2, table 1). With `features=True` the result is the dict of stage outputs "stem", "stage1", ... instead.
    """

    num_classes: int
    blocks: Sequence[int]
    width: int                      # filters of the first stage: 16 for CIFAR, 64 for ImageNet
    bottleneck: bool = False
    stem: Literal["cifar", "imagenet"] = "cifar"
    residual: bool = True
    shortcut: Literal["A", "B", "C"] = "A"
    zero_init: bool = False
    stride_in_3x3: bool = False
    norm_epsilon: float = 1e-5
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = False) -> Any:
        x = x.astype(self.dtype)
        if self.stem == "cifar":
            x = conv(self.width, 3, dtype=self.dtype, name="conv1")(x)
        else:
            x = conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(self.bn_axis_name, epsilon=self.norm_epsilon, name="norm1")(x, train=train))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

        stages = {"stem": sow_feature(self, "stem", x)}
        x = stages["stem"]
        for s, count in enumerate(self.blocks):
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                x = Block(self.width * 2**s, stride, self.bottleneck, self.residual, self.shortcut, self.zero_init,
                          self.stride_in_3x3, self.norm_epsilon, self.bn_axis_name, self.dtype,
                          name=f"stage{s + 1}_block{b + 1}")(x, train=train)
            stages[f"stage{s + 1}"] = x = sow_feature(self, f"stage{s + 1}", x)
        if features:
            return stages

        x = x.mean((1, 2))                                          # (N, C)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.he_normal(), name="classifier")(
            x.astype(jnp.float32))


def cifar_blocks(depth: int) -> tuple[int, int, int]:
    """Blocks of the three stages of a CIFAR net of `6n + 2` layers (section 4.2). Raises ValueError for another
    depth."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth {depth}: a CIFAR net has 6n + 2 layers, such as 20, 32, 44, 56 or 110")
    return ((depth - 2) // 6,) * 3


IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of the four stages by depth (table 1); from depth 50 the blocks are bottlenecks."""
