"""Feature pyramid network: Lin et al. 2017, "Feature Pyramid Networks for Object Detection"."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.detection import backbones
from cnnjax.detection.backbones import Backbone, Levels, Trunk
from cnnjax.detection.postprocess import each_image
from cnnjax.errors import UserError
from cnnjax.models.layers import conv

EXTRA = ("pool", "P5", "C5")


class FPN(nn.Module):
    """From a network's maps, fine before coarse, to a pyramid of as many channels at every level (figure 3).

    `[(N, h, w, c), ...] -> [(N, h, w, channels), ...]`: lateral 1x1 convolutions, each coarser sum upsampled to the
    nearest cell and added, a 3x3 convolution after the sum, no rectifier. Coarser levels follow: `extra` is "pool", one
    more that subsamples the coarsest (section 4.1), or "P5" or "C5", two more by 3x3 convolutions of stride 2 from the
    pyramid's or the network's coarsest map, the second of the rectified first (RetinaNet, section 4: the paper has C5,
    torchvision P5).
    """

    channels: int = 256
    extra: str = "pool"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        layer = partial(conv, self.channels, use_bias=True, kernel_init=nn.initializers.lecun_uniform(),
                        dtype=self.dtype)
        levels: list[jax.Array] = []
        total = None
        for i in reversed(range(len(maps))):
            lateral = layer(1, name=f"lateral{i}")(maps[i])
            total = lateral if total is None else lateral + upsample(total, lateral.shape[1:3])
            levels.insert(0, layer(3, name=f"output{i}")(total))
        if self.extra == "pool":
            return [*levels, levels[-1][:, ::2, ::2]]
        p6 = layer(3, 2, name="p6")(levels[-1] if self.extra == "P5" else maps[-1])
        return [*levels, p6, layer(3, 2, name="p7")(nn.relu(p6))]


def upsample(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """`(N, h, w, C) -> (N, *size, C)`, twice the size or one less: every cell repeated (nearest interpolation)."""
    height, width = size
    return x.repeat(2, 1)[:, :height].repeat(2, 2)[:, :, :width]


class Pyramid(Trunk):
    """A trunk whose stages go through an FPN: `Levels` "P2", "P3", ..., where level l has a stride of about 2^l pixels.

    The extra levels are named on from there.
    """

    channels: int = 256
    extra: str = "pool"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.fpn = FPN(self.channels, self.extra, self.dtype)

    def __call__(self, images: jax.Array, sizes: jax.Array, *, train: bool = False) -> dict[str, tuple[jax.Array, int]]:
        stages = super().__call__(images, sizes, train=train)
        stride = min(self.strides.values())
        levels = self.fpn([features for features, _ in stages.values()])
        return {f"P{n}": (features, 2**n) for n, features in enumerate(levels, round(math.log2(stride)))}


def create(backbone: Backbone, stages: Sequence[str], channels: int, extra: str,
           dtype: Any) -> tuple[Pyramid, nn.Module]:
    """The pyramid over a backbone's `stages`, fine before coarse, and the backbone's head.

    Raises UserError for an unknown `extra`, or stages of which one does not halve the map of the one before.
    """
    if extra not in EXTRA:
        raise UserError(f"model.extra: found {extra!r}, expected one of {', '.join(EXTRA)}")
    trunk, head, _ = backbones.create(backbone, dtype, stages)
    strides = list(trunk.strides.values())
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise UserError(f"model.backbone_stages: found {', '.join(stages)} of strides {', '.join(map(str, strides))}; "
                        "expected each to be twice the one before")
    return Pyramid(trunk.net, trunk.strides, trunk.mean, trunk.std, trunk.freeze_norm, channels, extra, dtype), head


@dataclass(frozen=True)
class PyramidAnchors:
    """Anchors of sizes of its own at each level and of the same ratios (height over width) at all (section 4.1).

    A size is the square root of an anchor's area in pixels. Corners are rounded to whole pixels, and places lie image
    // grid pixels apart along each axis, from 0 on, as torchvision has them.
    """

    sizes: Sequence[Sequence[float]]
    ratios: Sequence[float]

    @property
    def per_place(self) -> int:
        return len(self.sizes[0]) * len(self.ratios)

    def __call__(self, image: tuple[int, ...], levels: Levels) -> list[jax.Array]:
        """The anchors (h * w * k, 4) of each level, for padded images of that height and width.

        Raises UserError where there are not as many groups of sizes as levels, or groups of different length.
        """
        if len(self.sizes) != len(levels) or len({len(sizes) for sizes in self.sizes}) > 1:
            found = ", ".join(str(len(sizes)) for sizes in self.sizes)
            raise UserError(f"model.sizes: found groups of {found} sizes, expected as "
                            f"many in each of {len(levels)}: the levels are {', '.join(levels)}")
        anchors = []
        for sizes, (features, _) in zip(self.sizes, levels.values(), strict=True):
            height, width = features.shape[1:3]
            stride = image[0] // height, image[1] // width
            anchors.append(ops.generate_anchors(height, width, stride, sizes, self.ratios))
        return anchors


@dataclass(frozen=True)
class PyramidRoIAlign:
    """RoIAlign of each RoI on its level: floor(4 + log2(sqrt(area) / canonical_size)), held to those there are (eq. 1).

    The extra level of the RPN is none of them. 2x2 samples a bin and no half pixel, as torchvision has it.
    """

    size: int
    canonical_size: float = 224.0

    def __call__(self, levels: Levels, rois: jax.Array) -> jax.Array:
        pooled = list(levels.values())[:-1]
        strides = [stride for _, stride in pooled]
        lowest, highest = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))

        def one(rois: jax.Array, *features: jax.Array) -> jax.Array:
            level = ops.pyramid_level(rois, lowest, highest, canonical_size=self.canonical_size) - lowest
            return ops.multilevel_roi_align(features, rois, level, self.size, [1 / s for s in strides], aligned=False)
        return each_image(one, rois, *(features for features, _ in pooled))
