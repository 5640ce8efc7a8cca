"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014)."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.alexnet import FullyConnected, adaptive_mean
from cnnjax.models.layers import BatchNorm, conv, he_normal
from cnnjax.models.sow_feature import sow_feature

CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of the five stages by depth: columns A, B, D and E of table 1."""

INITS = {"he": he_normal, "paper": nn.initializers.normal(0.01), "glorot": nn.initializers.glorot_uniform()}


class VGG(nn.Module):
    """VGG. `(N, H, W, C) -> (N, num_classes)` logits, float32; 224x224 in the paper.

    Five stages of 3x3 convolutions and 2x2 max pooling, then three fully connected layers. These are connected to the
    map that the parameters were made on (7x7 for 224, 1x1 for 32); over larger images they slide as convolutions and
    the map of class scores is averaged (section 3.2). With `features=True` the result is the dict of "conv1" to
    "conv5", the stages' last rectified maps before pooling, and "pool5".

    `initializer`: "paper" is N(0, 0.01) with zero biases, from which only net A trains: the paper starts the deeper
    ones from it (see `grow`). "glorot" is the way without, that its footnote names. The default "he" suits the
    rectifiers and trains all depths from scratch. `pool_to` averages pool5 to a fixed grid, as torchvision (7). `width`
    is the first stage's filters. With `pool_ceil` the pools round up, as SSD's third does (75 to 38).
    """

    num_classes: int = 1000
    convs: Sequence[int] = CONVS[16]
    width: int = 64
    hidden: int = 4096
    batch_norm: bool = False
    pool_to: int | None = None
    pool_ceil: bool = False
    dropout: float = 0.5
    initializer: Literal["he", "paper", "glorot"] = "he"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = False) -> Any:
        init = INITS[self.initializer]
        stages = {}
        x = x.astype(self.dtype)
        for s, count in enumerate(self.convs, 1):
            filters = self.width * min(2 ** (s - 1), 8)
            for c in range(1, count + 1):
                x = conv(filters, 3, use_bias=True, kernel_init=init, dtype=self.dtype, name=f"conv{s}_{c}")(x)
                if self.batch_norm:
                    x = BatchNorm(self.bn_axis_name, name=f"norm{s}_{c}")(x, train=train)
                x = nn.relu(x)
            stages[f"conv{s}"] = x = sow_feature(self, f"conv{s}", x)
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME" if self.pool_ceil else "VALID")
        if self.pool_to is not None:
            x = adaptive_mean(x, self.pool_to)
        stages["pool5"] = x = sow_feature(self, "pool5", x)                             # (N, 7, 7, 512)
        if features:
            return stages

        for name in ("fc6", "fc7"):
            x = nn.relu(FullyConnected(self.hidden, init, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(self.num_classes, init, name="fc8")(x)               # (N, H', W', classes)
        return x.mean((1, 2))


def grow(params: dict[str, Any], shallow: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a deep VGG, begun from those of a trained shallower one (section 3.1).

    The first four convolutions and the three fully connected layers of `shallow` (net A) replace those of `params` of
    the same name; the rest stays as it was. Raises KeyError if a layer is not in both, ValueError if their shapes
    differ.
    """
    first_four = sorted(name for name in shallow if name.startswith("conv"))[:4]
    grown = dict(params)
    for name in (*first_four, "fc6", "fc7", "fc8"):
        deep, old = (jax.tree.map(jnp.shape, dict(net[name])) for net in (params, shallow))
        if deep != old:
            raise ValueError(f"{name}: {deep} cannot begin from {old}")
        grown[name] = shallow[name]
    return grown
