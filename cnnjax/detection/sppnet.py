"""SPP-net: He, Zhang, Ren and Sun 2014. One pass over the image; each region is pooled into a pyramid."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.data.detection import Batches, DetectionData, rescale_boxes
from cnnjax.detection import backbones, common, linear
from cnnjax.detection.backbones import DenseHead
from cnnjax.detection.common import Detector, Variables
from cnnjax.detection.losses import class_loss
from cnnjax.detection.proposals import Cache
from cnnjax.detection.targets import Truth, region_targets


class SPPNet(nn.Module):
    """A trunk at several scales, a spatial pyramid of each region, fully connected layers (section 4)."""

    trunk: nn.Module
    head: nn.Module
    num_classes: int
    stride: int
    levels: Sequence[int] = (1, 2, 3, 6)
    scales: Sequence[float] = (1.0,)        # the sizes of the image, as multiples of its canvas
    target: float = 224.0                   # a region is read at the scale that brings it nearest to target^2 pixels

    def setup(self) -> None:
        self.classes = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))

    def pyramids(self, images: jax.Array, sizes: jax.Array, rois: jax.Array) -> jax.Array:
        """The pyramids `(N, R, sum(l * l) * C)` of RoIs `(N, R, 4)` of images `(N, H, W, 3)` uint8 with `(N, 2)` sizes.

        The trunk is not trained, so neither are its statistics.
        """
        n, height, width, channels = images.shape
        area = ops.box_area(rois)[None] * jnp.square(jnp.array(self.scales))[:, None, None]           # (S, N, R)
        best = jnp.abs(area - self.target**2).argmin(0)                                               # (N, R)
        pooled = None
        for s, scale in enumerate(self.scales):
            shape = (n, round(height * scale), round(width * scale), channels)
            resized = images if scale == 1 else jax.image.resize(images.astype(jnp.float32), shape, "linear")
            maps = self.trunk(resized, jnp.round(sizes * scale).astype(int), train=False)
            pool = partial(ops.roi_pyramid_pool, spatial_scale=scale / self.stride, levels=self.levels)
            here = jax.vmap(pool)(maps, rois)
            pooled = here if pooled is None else jnp.where((best == s)[..., None], here, pooled)
        assert pooled is not None
        return pooled

    def top(self, pyramids: jax.Array, *, train: bool = False) -> jax.Array:
        """The fully connected layers: `(R, F) -> (R, D)`."""
        return self.head(pyramids, train=train)

    def __call__(self, images: jax.Array, sizes: jax.Array, rois: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores `(N, R, K + 1)`, background first."""
        pyramids = jax.lax.stop_gradient(self.pyramids(images, sizes, rois))
        n, r, f = pyramids.shape
        return self.classes(self.top(pyramids.reshape(n * r, f), train=train).astype(jnp.float32)).reshape(n, r, -1)


class SPPClassifier(nn.Module):
    """A classifier of images of any size: a trunk, the pyramid, fully connected layers (section 3).

    `(N, H, W, 3)` uint8 to `(N, num_classes)`; the same variables serve every H and W, so that training may go from
    one size to another (multi-size training, section 3.1).
    """

    trunk: nn.Module
    head: nn.Module
    num_classes: int
    levels: Sequence[int] = (1, 2, 3, 6)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        sizes = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
        features = self.trunk(images, sizes, train=train)
        x = self.head(jax.vmap(partial(ops.spatial_pyramid_pool, levels=self.levels))(features), train=train)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classes")(
            x.astype(jnp.float32))


def create(config: Any, num_classes: int) -> SPPNet:
    """The network over the trunk of `config.backbone`; its fully connected layers are its own."""
    backbone, settings = backbones.create(config.backbone, config.dtype), config.sppnet
    head = DenseHead(config.backbone.hidden, config.backbone.dropout, dtype=backbone.dtype)
    return SPPNet(backbone.trunk, head, num_classes, backbone.stride, settings.levels, settings.scales, settings.target)


def initialise(module: SPPNet, seed: int) -> Variables:
    """Random variables."""
    return jax.jit(partial(module.init, train=False))(
        jax.random.key(seed), jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64), jnp.zeros((1, 1, 4)))


def loss(module: SPPNet, settings: Any, variables: Variables, batch: Any, key: jax.Array) -> Any:
    """Softmax cross-entropy of sampled regions: `(loss, (batch_stats, metrics))`."""
    sample_key, dropout = jax.random.split(key)
    targets = jax.vmap(partial(region_targets, settings=settings))(
        jax.random.split(sample_key, len(batch["images"])), batch["proposals"], batch["proposals_valid"],
        Truth.of(batch))
    scores = cast(jax.Array, module.apply(variables, batch["images"], batch["sizes"], targets.rois, train=True,
                                          rngs={"dropout": dropout}))
    value = class_loss(scores, targets.labels, targets.there)
    return value, (variables["batch_stats"], {"foreground": (targets.labels > 0).mean()})


def extractor(config: Any, module: SPPNet, variables: Variables) -> linear.Extract:
    """The pyramids and the fully connected features of the boxes of an image."""

    @jax.jit
    def program(variables: Variables, images: jax.Array, sizes: jax.Array, rois: jax.Array) -> Any:
        pyramids = cast(jax.Array, module.apply(variables, images, sizes, rois[None], method="pyramids"))[0]
        return pyramids, module.apply(variables, pyramids, method="top")

    variables = jax.device_put(variables)

    def extract(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, sizes = common.on_canvas(image, config.data.canvases)
        rois, _ = common.pad_rows(rescale_boxes(boxes, image.shape[:2], sizes[0]), common.room(len(boxes)))
        pyramids, top = jax.device_get(program(variables, images, sizes, rois))
        return pyramids[: len(boxes)], top[: len(boxes)]
    return extract


def train(config: Any, data: DetectionData, folder: Path, start: Variables, proposals: Sequence[np.ndarray],
          ) -> Variables:
    """Tuning of the layers after the pyramid, features to disk, SVMs, box regression. `start` holds the trunk.

    Returns the network's variables with the groups "svm" and "ridge" beside them.
    """
    classes, settings = len(data.classes), config.sppnet
    module = create(config, classes)
    variables = {"batch_stats": {}, **backbones.transplant(initialise(module, config.seed), start, {"trunk": "trunk"})}
    batches = Batches(data.train, config.data.canvases, settings.training.batch_size, config.seed,
                      flip=config.data.flip, jitter=config.data.jitter, proposals=proposals,
                      steps_per_canvas=settings.training.steps_per_dispatch)
    variables = common.train(settings.training, config.seed, folder / "finetune", variables,
                             partial(loss, module, settings), batches.stream, ("trunk",), "SPP-net")
    return {**variables, "top": linear.fit(data.train, proposals, extractor(config, module, variables), classes,
                                           settings, config.seed, folder / "features")}


def detector(config: Any, num_classes: int, variables: Variables, search: Cache) -> Detector:
    """The trained detector on single images."""
    module = create(config, num_classes)
    extract = extractor(config, module, {k: v for k, v in variables.items() if k != "top"})
    return linear.detector(extract, variables["top"], config.sppnet.test, search)
