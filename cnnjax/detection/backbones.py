"""Backbones: a classifier up to some of its stages, which gives feature maps, and its last layers as a head over RoIs.

Levels are `{name: (features (N, h, w, C), stride)}`, fine before coarse, the stride in pixels a cell and static. Their
parameters carry the names of the classifier that they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax import models
from cnnjax.config import nearest, user_path
from cnnjax.errors import UserError
from cnnjax.fields import setting
from cnnjax.models.layers import BatchNorm, conv
from cnnjax.models.resnet import Block

Levels = Mapping[str, tuple[jax.Array, int]]
"""Feature maps (N, h, w, C) and their strides by name, fine before coarse."""


def only(levels: Levels) -> tuple[jax.Array, int]:
    """The features and the stride of a backbone with one level."""
    (level,) = levels.values()
    return level


@dataclass(frozen=True)
class Backbone:
    """A backbone's hyperparameters, the group `backbone` of a config; the defaults are Fast R-CNN's VGG16."""

    name: str = setting("vgg16", text='"small" or a network of `cnnjax.models`')
    widths: Sequence[int] = setting((16, 32, 64), "[1, 65536]", 'of "small"', length=0)
    stage: str = setting("conv5", text="where the trunk ends")
    head: str = setting("dense", ("dense", "stage"), "fully connected layers, or a ResNet's next stage")
    hidden: Sequence[int] = setting((4096, 4096), "[1, 65536]", "units of the fully connected layers")
    dropout: float = setting(0.5, "[0, 1)", "after each of them")
    stride_in_3x3: bool = setting(False, text="of a ResNet's bottlenecks, as in PyTorch's")
    norm_epsilon: float = setting(1e-5, "[0, 1]", "of a ResNet's batch norm; 0 in old detectors that froze it")
    pool: int = setting(7, "[1, 64]", "cells a side that RoIs are pooled to")
    mean: Sequence[float] = setting((0.485, 0.456, 0.406), "[-1000, 1000]", "of pixels in [0, 1]", length=3)
    std: Sequence[float] = setting((0.229, 0.224, 0.225), "(0, 1000]", "of pixels in [0, 1]", length=3)
    frozen: Sequence[str] = setting(("trunk/net/conv1", "trunk/net/conv2"), text="beginnings of the paths of "
                                    "parameters that are not trained: Fast R-CNN, section 4.5")
    freeze_norm: bool = setting(True, text="whether batch norm keeps its running statistics in training")
    weights: str = setting("", text="a PyTorch file, or a workdir of `cnnjax train`; empty: pre-training")


class Small(nn.Module):
    """A network for CPUs: for each width a 3x3 convolution of stride 2 and one of stride 1, each with batch norm.

    `(N, H, W, 3) -> {"stage1": (N, H / 2, W / 2, widths[0]), ...}`.
    """

    widths: Sequence[int] = (16, 32, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, features: bool = True) -> dict[str, jax.Array]:
        stages = {}
        for s, width in enumerate(self.widths, 1):
            for c, stride in enumerate((2, 1), 1):
                x = conv(width, 3, stride, dtype=self.dtype, name=f"conv{s}_{c}")(x)
                x = nn.relu(BatchNorm(name=f"norm{s}_{c}")(x, train=train))
            stages[f"stage{s}"] = x
        return stages


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels (..., 3) in [0, 255] as float32, scaled to [0, 1], less the mean and over the deviation of a channel."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)


class Trunk(nn.Module):
    """A network's levels from pixels: `(N, H, W, 3)` uint8 and `(N, 2)` heights and widths to `Levels`.

    Pixels are scaled to [0, 1], then normalised by `mean` and `std`; what lies outside an image's size is 0 after that,
    as the padding of the first convolution is. With `freeze_norm` batch norm uses its running statistics in training
    too.
    """

    net: nn.Module
    strides: Mapping[str, int]          # by the name of the stage, fine before coarse
    mean: Sequence[float]
    std: Sequence[float]
    freeze_norm: bool = False

    def __call__(self, images: jax.Array, sizes: jax.Array, *, train: bool = False) -> dict[str, tuple[jax.Array, int]]:
        _, height, width, _ = images.shape
        x = normalise(images, self.mean, self.std)
        rows = jnp.arange(height) < sizes[:, :1]                                        # (N, H)
        columns = jnp.arange(width) < sizes[:, 1:]                                      # (N, W)
        x = jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, 0)
        stages = self.net(x, train=train and not self.freeze_norm, features=True)
        return {stage: (stages[stage], stride) for stage, stride in self.strides.items()}


class DenseHead(nn.Module):
    """The fully connected layers fc6, fc7, ... of VGG, each rectified and dropped out.

    `ranks`, where not 0, factorise a layer into two with `rank` units between (Fast R-CNN, section 3.1): `truncate`.
    """

    widths: Sequence[int]
    dropout: float = 0.0
    ranks: Sequence[int] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.widths):
            if self.ranks and self.ranks[i]:
                x = nn.Dense(self.ranks[i], use_bias=False, dtype=self.dtype, name=f"fc{6 + i}_u")(x)
            x = nn.Dense(width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=f"fc{6 + i}")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return x


def truncate(params: Mapping[str, Any], ranks: Sequence[int]) -> dict[str, Any]:
    """A DenseHead's parameters with `ranks` from those without: the best approximation by truncated SVD."""
    out = dict(params)
    for i, rank in enumerate(ranks):
        if rank:
            left, values, right = np.linalg.svd(np.asarray(params[f"fc{6 + i}"]["kernel"]), full_matrices=False)
            out[f"fc{6 + i}_u"] = {"kernel": left[:, :rank] * values[:rank]}
            out[f"fc{6 + i}"] = {"kernel": right[:rank], "bias": params[f"fc{6 + i}"]["bias"]}
    return out


class StageHead(nn.Module):
    """The last stage of a ResNet over each region, then the mean over its places: "C4" of He et al. 2015.

    `block` holds the network's fields of a `Block`.
    """

    blocks: int
    filters: int
    stage: int
    block: Mapping[str, Any]
    freeze_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for b in range(self.blocks):
            x = Block(self.filters, 2 if b == 0 else 1, **self.block, dtype=self.dtype,
                      name=f"stage{self.stage}_block{b + 1}")(x, train=train and not self.freeze_norm)
        return x.mean((1, 2))


class Parts(NamedTuple):
    """A trunk and a head that fit together, and the strides of the trunk's levels."""

    trunk: Trunk
    head: nn.Module
    stride: int             # of the last level


def weights_path(config: Any) -> Path:
    """The path of `backbone.weights`. Raises UserError when there is nothing."""
    path = user_path(config.weights)
    if not path.exists():
        raise UserError(f"backbone.weights: {path} does not exist")
    return path


def create(config: Any, dtype: Any = jnp.float32, stages: Sequence[str] = ()) -> Parts:
    """The trunk and head that `config`, a `Backbone` or such a group, describes; `dtype` is that of activations.

    The trunk has one level, that of `config.stage`, or one for each of `stages`, fine before coarse.
    Raises UserError for an unknown name, stage or head.
    """
    if config.head not in ("dense", "stage"):
        raise UserError(f"backbone.head: found {config.head!r}, expected 'dense' or 'stage'")
    head: nn.Module = DenseHead(config.hidden, config.dropout, dtype=dtype)
    fields = {} if config.name == "small" else models.fields(config.name)
    stride = {k: getattr(config, k) for k in ("stride_in_3x3", "norm_epsilon") if k in fields}
    if config.head == "stage":
        if not config.stage.startswith("stage") or "blocks" not in fields:
            raise UserError(f"backbone.head: 'stage' needs a ResNet and a stage, found {config.name} {config.stage}")
        s = int(config.stage[5:])
        net: nn.Module = models.create(config.name, blocks=fields["blocks"][:s], dtype=dtype, **stride)
        block = {k: fields[k] for k in ("bottleneck", "residual", "shortcut")} | stride
        head = StageHead(fields["blocks"][s], fields["width"] * 2**s, s + 1, block, config.freeze_norm, dtype)
    elif config.name == "small":
        net = Small(config.widths, dtype)
    else:
        net = models.create(config.name, dtype=dtype, **stride)
    side = 128
    shapes = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, side, side, 3)),
                                                         features=True)[0])
    for stage in stages or (config.stage,):
        if stage not in shapes:
            raise UserError(f"backbone.stage: {config.name} has no stage {stage!r}{nearest(stage, shapes)}; it has "
                            f"{', '.join(shapes)}")
    strides = {stage: side // shapes[stage].shape[1] for stage in stages or (config.stage,)}
    trunk = Trunk(net, strides, tuple(config.mean), tuple(config.std), config.freeze_norm)
    return Parts(trunk, head, list(strides.values())[-1])


# Parameters by path

def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path, such as `trunk/net/conv1_1/kernel`."""
    return flatten_dict(dict(tree), sep="/")


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return unflatten_dict(dict(leaves), sep="/")


def transplant(variables: Mapping[str, Any], source: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """`variables` with parts replaced by those of `source`: `parts` says where each beginning of a path comes from.

    `{"trunk/net": "", "head": ""}` takes trunk and head of a detector from a classifier, whose layers have those names.
    Raises UserError when a layer of a part is not in the source, or has another shape there.
    """
    out: dict[str, Any] = {}
    for collection, tree in variables.items():
        leaves, found = flat(tree), flat(source.get(collection, {}))
        for path in leaves:
            for to, origin in parts.items():
                if path.startswith(to + "/"):
                    name = path.replace(to + "/", origin + "/" if origin else "", 1)
                    if name not in found:
                        raise UserError(f"backbone.weights lack {collection}/{name}{nearest(name, found)}")
                    if np.shape(found[name]) != np.shape(leaves[path]):
                        raise UserError(f"backbone.weights: {name} has shape {np.shape(found[name])}, this network has "
                                        f"{np.shape(leaves[path])}")
                    leaves[path] = found[name]
        out[collection] = nested(leaves)
    return out
