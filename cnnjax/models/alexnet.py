"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012).

Local response normalisation and the fully connected layer, which later networks share, stand here too.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.models.layers import conv, he_normal
from cnnjax.models.sow_feature import sow_feature
from cnnjax.ops.conv import conv_general_dilated


def local_response_norm(x: jax.Array, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4,
                        beta: float = 0.75) -> jax.Array:
    """`x / (k + alpha * sum of the squares of n adjacent channels) ** beta` (section 3.3), `(..., C) -> (..., C)`.

    `alpha` multiplies the sum, as the paper writes it; Caffe and PyTorch divide it by `n` first.
    """
    before = n // 2
    padded = jnp.pad(jnp.square(x), [(0, 0)] * (x.ndim - 1) + [(before, n - 1 - before)])
    total = sum(padded[..., i:i + x.shape[-1]] for i in range(n))
    return x * (k + alpha * total) ** -beta


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """Mean over a grid of `size` x `size` windows that cover any map, `(N, H, W, C) -> (N, size, size, C)`.

    Window i spans rows `floor(i H / size)` to `ceil((i + 1) H / size)`, as PyTorch's AdaptiveAvgPool2d.
    """
    def weights(length: int) -> np.ndarray:                                     # (size, length), rows sum to 1
        i, p = np.arange(size)[:, None], np.arange(length)
        inside = (p >= i * length // size) & (p < -(-(i + 1) * length // size))
        return (inside / inside.sum(1, keepdims=True)).astype(np.float32)

    if x.shape[1:3] == (size, size):
        return x
    y = jnp.einsum("ih,jw,nhwc->nijc", weights(x.shape[1]), weights(x.shape[2]), x.astype(jnp.float32))
    return y.astype(x.dtype)


class FullyConnected(nn.Module):
    """A layer fully connected to a window of the map: the window is the whole map that the parameters were made on.

    `(N, H, W, C) -> (N, H', W', features)`: 1x1 on a map of the window's size; on a larger map the window slides over
    it as a convolution does, with the same weights (OverFeat; VGG, section 3.2). The kernel is `(h * w * C, features)`.

    Raises UserError for a map smaller than the window, or empty.
    """

    features: int
    kernel_init: nn.initializers.Initializer = he_normal
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, channels = x.shape[1:]
        rows = height * width * channels
        if self.has_variable("params", "kernel"):
            rows = self.get_variable("params", "kernel").shape[0]
        if rows == 0:
            raise UserError(f"{self.name}: no pixel of the image is left ({height}x{width}): give larger ones")
        kernel = self.param("kernel", self.kernel_init, (rows, self.features)).astype(self.dtype)
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if rows == height * width * channels:
            return (x.reshape(x.shape[0], rows) @ kernel + bias)[:, None, None]
        side = isqrt(rows // channels)
        if side * side * channels != rows or side > min(height, width):
            raise UserError(f"{self.name}: its weights want a map of {rows} values, such as {side}x{side}x{channels}, "
                            f"found {height}x{width}x{channels}: give larger images, or initialise on images of this "
                            "size")
        kernel = kernel.reshape(side, side, channels, self.features)
        return conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


class AlexNet(nn.Module):
    """AlexNet. `(N, H, W, C) -> (N, num_classes)` logits, float32; the paper's sizes hold for 227x227.

    (The paper says 224, which its own 55x55 contradicts.) On images larger than those that the parameters were made on
    the fully connected layers slide and the logits are averaged. With `features=True` the result is the dict of "conv1"
    to "conv5" (rectified, before normalisation and pooling) and "pool5".

    `groups=2`: conv 2, 4 and 5 see only the maps of their own GPU; 1 is the network on one GPU. `stem="cifar"`: conv 1
    is 5x5 at stride 1, for small images; "imagenet": 11x11 at stride 4, padded by `conv1_padding`. torchvision's
    network is `filters=(64, 192, 384, 256, 256), groups=1, lrn=False, conv1_padding=2, pool_to=6`, where `pool_to`
    averages pool5 to a fixed grid. `initializer="paper"`: N(0, 0.01), biases 1 in conv 2, 4, 5 and the hidden layers;
    "he": He et al. 2015 with zero biases, which starts far sooner on small sets.
    """

    num_classes: int = 1000
    filters: Sequence[int] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    groups: int = 2
    stem: Literal["imagenet", "cifar"] = "imagenet"
    conv1_padding: int = 0
    lrn: bool = True
    pool_to: int | None = None
    dropout: float = 0.5
    initializer: Literal["paper", "he"] = "paper"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = False) -> Any:
        kernel_init = nn.initializers.normal(0.01) if self.initializer == "paper" else he_normal
        ones = nn.initializers.ones if self.initializer == "paper" else nn.initializers.zeros
        stages = {}

        def convolve(x: jax.Array, number: int, kernel: int, *, bias_init=nn.initializers.zeros, **fields) -> jax.Array:
            name = f"conv{number}"
            x = conv(self.filters[number - 1], kernel, use_bias=True, kernel_init=kernel_init, bias_init=bias_init,
                     dtype=self.dtype, name=name, **fields)(x)
            stages[name] = sow_feature(self, name, nn.relu(x))
            return stages[name]

        def pool(x: jax.Array) -> jax.Array:
            return nn.max_pool(x, (3, 3), (2, 2))                               # overlapping, section 3.4

        def norm(x: jax.Array) -> jax.Array:
            return local_response_norm(x) if self.lrn else x

        x = x.astype(self.dtype)                                                # 227x227
        first = {"stride": 4, "padding": self.conv1_padding} if self.stem == "imagenet" else {}
        x = convolve(x, 1, 11 if self.stem == "imagenet" else 5, **first)       # 55x55
        x = pool(norm(x))                                                       # 27x27
        x = convolve(x, 2, 5, bias_init=ones, feature_group_count=self.groups)
        x = pool(norm(x))                                                       # 13x13
        x = convolve(x, 3, 3)
        x = convolve(x, 4, 3, bias_init=ones, feature_group_count=self.groups)
        x = convolve(x, 5, 3, bias_init=ones, feature_group_count=self.groups)
        x = pool(x)                                                             # 6x6
        if self.pool_to is not None:
            x = adaptive_mean(x, self.pool_to)
        stages["pool5"] = x = sow_feature(self, "pool5", x)
        if features:
            return stages

        for name in ("fc6", "fc7"):
            x = nn.relu(FullyConnected(self.hidden, kernel_init, ones, self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(self.num_classes, kernel_init, name="fc8")(x)        # (N, H', W', classes)
        return x.mean((1, 2))
