"""Fast R-CNN: Girshick 2015. One pass over the image, RoI pooling, class and box from one loss."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.data.detection import Batches, DetectionData, rescale_boxes
from cnnjax.detection import backbones, common
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.common import Boxes, Detector, Found, Variables
from cnnjax.detection.losses import box_loss, class_loss
from cnnjax.detection.proposals import Cache
from cnnjax.detection.targets import RegionTargets, Truth, region_targets
from cnnjax.errors import UserError


class FastRCNN(nn.Module):
    """Trunk, RoI pooling, head, and the two sibling layers (figure 1)."""

    trunk: nn.Module
    head: nn.Module
    num_classes: int            # without the background
    stride: int
    pool: int = 7
    pooling: str = "pool"       # or "align"

    def setup(self) -> None:
        self.classes = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))
        self.boxes = nn.Dense(4 * self.num_classes, kernel_init=nn.initializers.normal(0.001))

    def features(self, images: jax.Array, sizes: jax.Array, *, train: bool = False) -> jax.Array:
        """The map of the images: `(N, H, W, 3)` uint8, `(N, 2)` to `(N, h, w, C)`."""
        return self.trunk(images, sizes, train=train)

    def regions(self, features: jax.Array, rois: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Scores `(N, R, K + 1)`, background first, and deltas of each class `(N, R, K, 4)` of the RoIs `(N, R, 4)`."""
        pool = ops.roi_pool if self.pooling == "pool" else ops.roi_align
        pooled = jax.vmap(lambda f, r: pool(f, r, self.pool, 1 / self.stride))(features, rois)
        n, r = rois.shape[:2]
        x = self.head(pooled.reshape(n * r, *pooled.shape[2:]), train=train).astype(jnp.float32)    # (N * R, D)
        return self.classes(x).reshape(n, r, -1), self.boxes(x).reshape(n, r, self.num_classes, 4)

    def __call__(self, images: jax.Array, sizes: jax.Array, rois: jax.Array, *, train: bool = False,
                 ) -> tuple[jax.Array, jax.Array]:
        return self.regions(self.features(images, sizes, train=train), rois, train=train)


def create(backbone: Backbone, num_classes: int, pooling: str) -> FastRCNN:
    """The network over a backbone. Raises UserError for a `pooling` other than "pool" and "align"."""
    if pooling not in ("pool", "align"):
        raise UserError(f"pooling: found {pooling!r}, expected 'pool' or 'align'")
    return FastRCNN(backbone.trunk, backbone.head, num_classes, backbone.stride, backbone.pool, pooling)


def initialise(module: FastRCNN, seed: int) -> Variables:
    """Random variables."""
    return jax.jit(partial(module.init, train=False))(
        jax.random.key(seed), jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64), jnp.zeros((1, 1, 4)))


def region_loss(scores: jax.Array, deltas: jax.Array, targets: RegionTargets) -> tuple[jax.Array, jax.Array]:
    """The two terms of eq. 1 over all sampled regions of the batch, `(N, S, K + 1), (N, S, K, 4)`; lambda is 1."""
    foreground = targets.labels > 0
    of_class = jnp.maximum(targets.labels - 1, 0)[..., None, None]
    own = jnp.take_along_axis(deltas, of_class, -2)[..., 0, :]                          # (N, S, 4)
    return (class_loss(scores, targets.labels, targets.there),
            box_loss(own, targets.deltas, foreground, targets.there.sum(), beta=1.0))


def loss(module: FastRCNN, settings: Any, variables: Variables, batch: Any, key: jax.Array) -> Any:
    """The loss of a batch of `data.detection.Batches` with proposals: `(loss, (batch_stats, metrics))`."""
    sample_key, dropout = jax.random.split(key)
    targets = jax.vmap(partial(region_targets, settings=settings))(
        jax.random.split(sample_key, len(batch["images"])), batch["proposals"], batch["proposals_valid"],
        Truth.of(batch))
    (scores, deltas), new = module.apply(variables, batch["images"], batch["sizes"], targets.rois, train=True,
                                         rngs={"dropout": dropout}, mutable=["batch_stats"])
    of_class, of_box = region_loss(scores, deltas, targets)
    metrics = {"class_loss": of_class, "box_loss": of_box, "foreground": (targets.labels > 0).mean()}
    return of_class + of_box, (new.get("batch_stats", {}), metrics)


def detect(module: FastRCNN, settings: Any, variables: Variables, images: jax.Array, sizes: jax.Array,
           rois: jax.Array, there: jax.Array) -> Boxes:
    """From pixels to the final boxes of one image: `(1, H, W, 3)` uint8, `(1, 2)`, `(R, 4)`, `(R,)`. For jit."""
    scores, deltas = cast(Any, module.apply(variables, images, sizes, rois[None]))
    return common.finish(rois, there, jax.nn.softmax(scores[0])[:, 1:], deltas[0], sizes[0], settings)


def train(config: Any, data: DetectionData, folder: Path, start: Variables, proposals: Sequence[np.ndarray],
          ) -> Variables:
    """Trained variables. `start` holds those of trunk and head; `proposals` are (P, 4) for each training image."""
    module = create(backbones.create(config.backbone, config.dtype), len(data.classes), config.fast_rcnn.pooling)
    variables = backbones.transplant(initialise(module, config.seed), start, {"trunk": "trunk", "head": "head"})
    phase = config.fast_rcnn.training
    batches = Batches(data.train, config.data.canvases, phase.batch_size, config.seed, flip=config.data.flip,
                      jitter=config.data.jitter, proposals=proposals,
                      steps_per_canvas=phase.steps_per_dispatch)
    return common.train(phase, config.seed, folder, variables, partial(loss, module, config.fast_rcnn), batches.stream,
                        config.backbone.frozen, "Fast R-CNN")


def detector(config: Any, num_classes: int, variables: Variables, search: Cache) -> Detector:
    """The trained network on single images, its proposals by selective search.

    With `svd_ranks` the layers of its head are factorised first (section 3.1).
    """
    backbone = backbones.create(config.backbone, config.dtype)
    if any(config.fast_rcnn.svd_ranks):
        backbone = backbone._replace(head=backbone.head.clone(ranks=config.fast_rcnn.svd_ranks))
        params = variables["params"]
        head = backbones.truncate(params["head"], config.fast_rcnn.svd_ranks)
        variables = {**variables, "params": {**params, "head": head}}
    module = create(backbone, num_classes, config.fast_rcnn.pooling)
    program: Callable[..., Boxes] = jax.jit(partial(detect, module, config.test))
    variables = jax.device_put(variables)

    def run(image: np.ndarray) -> Found:
        proposed = search(image)
        began = time.perf_counter()
        images, sizes = common.on_canvas(image, config.data.canvases)
        rois, there = common.pad_rows(rescale_boxes(proposed.boxes, image.shape[:2], sizes[0]),
                                       common.room(len(proposed.boxes)))
        ready = time.perf_counter()
        found = jax.device_get(program(variables, images, sizes, rois, there))
        done = time.perf_counter()
        detections = common.to_detections(found, sizes[0], image.shape[:2])
        rest = ready - began + time.perf_counter() - done
        return Found(detections, proposed.boxes,
                     {"proposals": proposed.seconds, "network": done - ready, "rest": rest})
    return run
