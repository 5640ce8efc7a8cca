"""The one protocol of the four detectors: a trunk over the whole image, a head over each region.

A trunk turns images into one map, `(N, H, W, 3) -> (N, H / stride, W / stride, C)`; a head turns pooled regions into
vectors, `(R, h, w, C) -> (R, D)`. Their parameters carry the names of the classifier they come from.
"""

from collections.abc import Mapping, Sequence
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
from cnnjax.models.layers import BatchNorm, conv
from cnnjax.models.resnet import Block


class Small(nn.Module):
    """A trunk for CPUs: for each width a 3x3 convolution of stride 2 and one of stride 1, batch-normalised.

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


class Trunk(nn.Module):
    """A network up to one of its stages, from pixels: `(N, H, W, 3)` uint8 and `(N, 2)` sizes to `(N, h, w, C)`.

    Pixels are scaled to [0, 1], then `mean` and `std` taken out; what lies outside an image's size is 0 after that, as
    the padding of the first convolution is. With `freeze_norm` batch norm uses its running statistics in training too.
    """

    net: nn.Module
    stage: str
    mean: Sequence[float]
    std: Sequence[float]
    freeze_norm: bool = False

    def __call__(self, images: jax.Array, sizes: jax.Array, *, train: bool) -> jax.Array:
        _, height, width, _ = images.shape
        x = (images.astype(jnp.float32) / 255 - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        rows = jnp.arange(height) < sizes[:, :1]                                        # (N, H)
        columns = jnp.arange(width) < sizes[:, 1:]                                      # (N, W)
        x = jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, 0)
        return self.net(x, train=train and not self.freeze_norm, features=True)[self.stage]


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


class Backbone(NamedTuple):
    """A trunk and a head that fit together."""

    trunk: nn.Module
    head: nn.Module
    stride: int             # pixels of the image a cell of the map
    pool: int               # regions are pooled to pool x pool cells
    dtype: Any              # of activations


def weights_path(config: Any) -> Path:
    """Where the weights that `config` (the `backbone` group) names lie. Raises UserError when they are not there."""
    path = user_path(config.weights)
    if not path.exists():
        raise UserError(f"backbone.weights: {path} does not exist")
    return path


def create(config: Any, dtype: Any = jnp.float32) -> Backbone:
    """The backbone that `config` (the `backbone` group) describes.

    `name` is "small" or a network of `cnnjax.models`; the trunk ends with its `stage`. `head` is "dense", layers of
    `hidden` units with `dropout`, or "stage", the ResNet's next stage. `freeze_norm` holds batch norm's statistics,
    `stride_in_3x3` says where a ResNet's bottlenecks stride.
    Raises UserError for an unknown name, stage or head.
    """
    if config.head not in ("dense", "stage"):
        raise UserError(f"backbone.head: found {config.head!r}, expected 'dense' or 'stage'")
    head: nn.Module = DenseHead(config.hidden, config.dropout, dtype=dtype)
    fields = {} if config.name == "small" else models.fields(config.name)
    stride = {}
    if "stride_in_3x3" in fields:
        stride["stride_in_3x3"] = config.get("stride_in_3x3", False)        # detectors of old have no such field
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
    stages = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, side, side, 3)),
                                                         features=True)[0])
    if config.stage not in stages:
        raise UserError(f"backbone.stage: {config.name} has no stage {config.stage!r}{nearest(config.stage, stages)}; "
                        f"it has {', '.join(stages)}")
    stride = side // stages[config.stage].shape[1]
    trunk = Trunk(net, config.stage, tuple(config.mean), tuple(config.std), config.freeze_norm)
    return Backbone(trunk, head, stride, config.pool, dtype)


# Parameters by path

Flat = dict[str, Any]


def flat(tree: Mapping[str, Any]) -> Flat:
    """Leaves by path, such as `trunk/net/conv1_1/kernel`."""
    return flatten_dict(dict(tree), sep="/")


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return unflatten_dict(dict(leaves), sep="/")


def split(params: Mapping[str, Any], frozen: Sequence[str]) -> tuple[Flat, Flat]:
    """The flat parameters to train, and those to hold: whose path begins with one of `frozen`.

    Raises UserError for a beginning that no parameter has.
    """
    leaves = flat(params)
    for prefix in frozen:
        if not any(path.startswith(prefix) for path in leaves):
            raise UserError(f"no parameter begins with {prefix!r}, which is to be frozen{nearest(prefix, leaves)}")
    held = {path for path in leaves if path.startswith(tuple(frozen))} if frozen else set()
    return ({p: v for p, v in leaves.items() if p not in held}, {p: leaves[p] for p in held})


def transplant(variables: Mapping[str, Any], source: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """`variables` with the parts that `source` knows: `parts` says where each beginning of a path comes from.

    `{"trunk/net": "", "head": ""}` takes trunk and head of a detector from a classifier, whose layers have those names.
    Raises UserError when a layer of a part is not in the source, or has another shape there.
    """
    out: dict[str, Any] = {}
    for collection, tree in variables.items():
        leaves, found = flat(tree), flat(source.get(collection, {}))
        for path in leaves:
            for to, whence in parts.items():
                if path.startswith(to + "/"):
                    name = path.replace(to + "/", whence + "/" if whence else "", 1)
                    if name not in found:
                        raise UserError(f"backbone.weights lack {collection}/{name}{nearest(name, found)}")
                    if np.shape(found[name]) != np.shape(leaves[path]):
                        raise UserError(f"backbone.weights: {name} has shape {np.shape(found[name])}, this network has "
                                        f"{np.shape(leaves[path])}")
                    leaves[path] = found[name]
        out[collection] = nested(leaves)
    return out
