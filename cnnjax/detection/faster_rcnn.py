"""Faster R-CNN: Ren, He, Girshick and Sun 2015. The proposals come from the network; all is one program."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import ops
from cnnjax.data.detection import Batches, DetectionData, rescale_boxes
from cnnjax.detection import backbones, common, fast_rcnn
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.common import Boxes, Detector, Found, Variables
from cnnjax.detection.fast_rcnn import FastRCNN
from cnnjax.detection.rpn import RPN, Proposed, propose, rpn_loss
from cnnjax.detection.targets import Truth, anchor_targets, region_targets
from cnnjax.errors import UserError


class FasterRCNN(nn.Module):
    """Fast R-CNN and a region proposal network on the same map (figure 2)."""

    fast: FastRCNN
    rpn: RPN

    def features(self, images: jax.Array, sizes: jax.Array, *, train: bool = False) -> jax.Array:
        """As `FastRCNN.features`."""
        return self.fast.features(images, sizes, train=train)

    def proposals(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Objectness `(N, A)` and deltas `(N, A, 4)` of all anchors."""
        return self.rpn(features)

    def regions(self, features: jax.Array, rois: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """As `FastRCNN.regions`."""
        return self.fast.regions(features, rois, train=train)

    def __call__(self, images: jax.Array, sizes: jax.Array, rois: jax.Array) -> Any:
        features = self.features(images, sizes)
        return self.proposals(features), self.regions(features, rois)


def create(backbone: Backbone, num_classes: int, settings: Any) -> FasterRCNN:
    """The network over a backbone; `settings` is the `faster_rcnn` group."""
    return FasterRCNN(fast_rcnn.create(backbone, num_classes, settings.pooling),
                      RPN(len(settings.scales) * len(settings.ratios), settings.rpn_channels, backbone.dtype))


def initialise(module: FasterRCNN, seed: int) -> Variables:
    """Random variables."""
    return jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64),
                                jnp.zeros((1, 1, 4)))


def anchors_of(features: jax.Array, stride: int, settings: Any) -> jax.Array:
    """The anchors (A, 4) of a map (..., h, w, C)."""
    height, width = features.shape[-3:-1]
    return ops.generate_anchors(height, width, stride, settings.scales, settings.ratios, settings.anchor_style)


def loss(module: FasterRCNN, settings: Any, variables: Variables, batch: Any, key: jax.Array, *,
         head: bool = True) -> Any:
    """The loss of a batch: of the RPN and, with `head`, of the head on its proposals (approximate joint training).

    Returns `(loss, (batch_stats, metrics))`.
    """
    apply: Any = module.apply
    n = len(batch["images"])
    anchor_key, region_key, dropout = jax.random.split(key, 3)
    truth = Truth.of(batch)
    features, new = apply(variables, batch["images"], batch["sizes"], train=True, method="features",
                          mutable=["batch_stats"])
    stats = new.get("batch_stats", {})
    anchors = anchors_of(features, module.fast.stride, settings)
    objectness, deltas = apply(variables, features, method="proposals")
    targets = jax.vmap(partial(anchor_targets, settings=settings), (0, None, 0, 0))(
        jax.random.split(anchor_key, n), anchors, batch["sizes"], truth)
    of_object, rpn_box = rpn_loss(objectness, deltas, targets)
    total, metrics = of_object + rpn_box, {"objectness_loss": of_object, "rpn_box_loss": rpn_box}
    if head:
        proposed = jax.vmap(partial(propose, settings=settings, stage=settings.proposals_train), (0, 0, None, 0))(
            objectness, deltas, anchors, batch["sizes"])
        regions = jax.vmap(partial(region_targets, settings=settings))(
            jax.random.split(region_key, n), proposed.boxes, proposed.valid, truth)
        (scores, moved), new = apply({**variables, "batch_stats": stats}, features, regions.rois, train=True,
                                     method="regions", rngs={"dropout": dropout}, mutable=["batch_stats"])
        stats = new.get("batch_stats", stats) or stats
        of_class, of_box = fast_rcnn.region_loss(scores, moved, regions)
        total += of_class + of_box
        metrics |= {"class_loss": of_class, "box_loss": of_box, "foreground": (regions.labels > 0).mean()}
    return total, (stats, metrics)


def detect(module: FasterRCNN, settings: Any, test: Any, variables: Variables, images: jax.Array, sizes: jax.Array,
           ) -> tuple[Boxes, Proposed]:
    """From pixels to the final boxes of one image, and its proposals: `(1, H, W, 3)` uint8, `(1, 2)`. For jit."""
    apply: Any = module.apply
    features = apply(variables, images, sizes, method="features")
    objectness, deltas = apply(variables, features, method="proposals")
    anchors = anchors_of(features, module.fast.stride, settings)
    proposed = propose(objectness[0], deltas[0], anchors, sizes[0], settings, settings.proposals_test)
    scores, moved = apply(variables, features, proposed.boxes[None], method="regions")
    probabilities = jax.nn.softmax(scores[0])[:, 1:]
    return common.finish(proposed.boxes, proposed.valid, probabilities, moved[0], sizes[0], test), proposed


PARTS = {"fast/trunk": "trunk", "fast/head": "head"}


def train(config: Any, data: DetectionData, folder: Path, start: Variables) -> Variables:
    """Trained variables, by approximate joint training or in the paper's four steps, as `method` says.

    `start` holds the variables of trunk and head. Raises UserError for another method.
    """
    settings = config.faster_rcnn
    module = create(backbones.create(config.backbone, config.dtype), len(data.classes), settings)
    variables = backbones.transplant(initialise(module, config.seed), start, PARTS)
    batches = Batches(data.train, config.data.canvases, settings.training.batch_size, config.seed,
                      flip=config.data.flip, jitter=config.data.jitter,
                      steps_per_canvas=settings.training.steps_per_dispatch)
    held = tuple(f"fast/{path}" for path in config.backbone.frozen)
    if settings.method == "joint":
        return common.train(settings.training, config.seed, folder, variables, partial(loss, module, settings),
                            batches.stream, held, "Faster R-CNN")
    if settings.method != "alternating":
        raise UserError(f"faster_rcnn.method: found {settings.method!r}, expected 'joint' or 'alternating'")
    return _alternating(config, data, folder, module, variables, batches, held)


def _alternating(config: Any, data: DetectionData, folder: Path, module: FasterRCNN, variables: Variables,
                 batches: Batches, held: tuple[str, ...]) -> Variables:
    """Section 3.2: the RPN, the detector on its proposals, then each again over the detector's trunk, which is held."""
    settings = config.faster_rcnn
    others = tuple(f"fast/{part}" for part in ("head", "classes", "boxes"))

    # a trunk that is held keeps the running statistics of its batch norm too
    still = module.clone(fast=module.fast.clone(trunk=module.fast.trunk.clone(freeze_norm=True)))

    def step(number: int, variables: Variables, objective: Any, stream: Any, frozen: tuple[str, ...]) -> Variables:
        return common.train(settings.training, config.seed + number, folder / f"step{number}", variables, objective,
                            stream, frozen, f"Faster R-CNN, step {number} of 4")

    def fast_step(number: int, module: FasterRCNN, proposer: Variables, variables: Variables,
                  frozen: tuple[str, ...]) -> Variables:
        boxes = all_proposals(config, module, proposer, data, settings.proposals_train)
        with_proposals = Batches(data.train, batches.canvases, batches.batch_size, config.seed, flip=config.data.flip,
                                 jitter=config.data.jitter, proposals=boxes,
                                 steps_per_canvas=settings.training.steps_per_dispatch)
        return step(number, variables, partial(_fast_loss, module, settings), with_proposals.stream, frozen)

    first = step(1, variables, partial(loss, module, settings, head=False), batches.stream, (*held, *others))
    second = fast_step(2, module, first, variables, (*held, "rpn"))
    shared = {**second, "params": {**second["params"], "rpn": first["params"]["rpn"]}}
    third = step(3, shared, partial(loss, still, settings, head=False), batches.stream, ("fast/trunk", *others))
    return fast_step(4, still, third, third, ("fast/trunk", "rpn"))


def _fast_loss(module: FasterRCNN, settings: Any, variables: Variables, batch: Any, key: jax.Array) -> Any:
    """Fast R-CNN's loss on the proposals of the batch, over variables of the whole network."""
    own = {k: v.get("fast", {}) for k, v in variables.items()}
    value, (stats, metrics) = fast_rcnn.loss(module.fast, settings, own, batch, key)
    return value, ({"fast": stats} if stats else variables["batch_stats"], metrics)


def all_proposals(config: Any, module: FasterRCNN, variables: Variables, data: DetectionData,
                  stage: ConfigDict) -> list[np.ndarray]:
    """The RPN's proposals (P, 4) for each training image, in its pixels."""
    settings = config.faster_rcnn
    apply: Any = module.apply

    @jax.jit
    def program(variables: Variables, images: jax.Array, sizes: jax.Array) -> Proposed:
        features = apply(variables, images, sizes, method="features")
        objectness, deltas = apply(variables, features, method="proposals")
        anchors = anchors_of(features, module.fast.stride, settings)
        return propose(objectness[0], deltas[0], anchors, sizes[0], settings, stage)

    found = []
    for i in range(len(data.train)):
        image = data.train.read(i)
        images, sizes = common.on_canvas(image, config.data.canvases)
        proposed = jax.device_get(program(variables, images, sizes))
        found.append(rescale_boxes(proposed.boxes[proposed.valid], sizes[0], image.shape[:2]))
    return found


def detector(config: Any, num_classes: int, variables: Variables) -> Detector:
    """The trained network on single images. The seconds of its proposals are part of "network"."""
    module = create(backbones.create(config.backbone, config.dtype), num_classes, config.faster_rcnn)
    program = jax.jit(partial(detect, module, config.faster_rcnn, config.test))
    variables = jax.device_put(variables)

    def run(image: np.ndarray) -> Found:
        began = time.perf_counter()
        images, sizes = common.on_canvas(image, config.data.canvases)
        ready = time.perf_counter()
        found, proposed = jax.device_get(program(variables, images, sizes))
        done = time.perf_counter()
        detections = common.to_detections(found, sizes[0], image.shape[:2])
        proposals = rescale_boxes(proposed.boxes[proposed.valid], sizes[0], image.shape[:2])
        rest = ready - began + time.perf_counter() - done
        return Found(detections, proposals, {"proposals": 0.0, "network": done - ready, "rest": rest})
    return run
