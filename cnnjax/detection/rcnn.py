"""R-CNN: Girshick, Donahue, Darrell and Malik 2014. Regions are cut out, warped, and classified one by one."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.data.detection import Batch, DetectionData, DetectionSet, ahead_of_time
from cnnjax.detection import backbones, common, linear
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.common import Detector, Variables
from cnnjax.detection.losses import class_loss
from cnnjax.detection.proposals import Cache
from cnnjax.evaluation.voc_ap import iou_matrix


class RCNN(nn.Module):
    """A classifier of warped regions: `(R, S, S, 3)` uint8 to `(R, K + 1)`, background first."""

    trunk: nn.Module
    head: nn.Module
    num_classes: int
    pool: int = 7

    def setup(self) -> None:
        self.classes = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))

    def features(self, crops: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """"pool5" `(R, pool * pool * C)` and the head's output `(R, D)`."""
        sizes = jnp.broadcast_to(jnp.array(crops.shape[1:3]), (len(crops), 2))
        x = self.trunk(crops, sizes, train=train)
        pooled = jax.vmap(partial(ops.spatial_pyramid_pool, levels=(self.pool,)))(x)
        return pooled, self.head(pooled.reshape(len(x), self.pool, self.pool, -1), train=train)

    def __call__(self, crops: jax.Array, *, train: bool = False) -> jax.Array:
        return self.classes(self.features(crops, train=train)[1].astype(jnp.float32))


def create(backbone: Backbone, num_classes: int) -> RCNN:
    """The network over a backbone."""
    return RCNN(backbone.trunk, backbone.head, num_classes, backbone.pool)


def initialise(module: RCNN, side: int, seed: int) -> Variables:
    """Random variables for crops of that side."""
    return jax.jit(partial(module.init, train=False))(jax.random.key(seed), jnp.zeros((1, side, side, 3), jnp.uint8))


def warp(image: np.ndarray, boxes: np.ndarray, side: int, context: int, fill: Sequence[float]) -> np.ndarray:
    """Each box stretched to side x side, with `context` pixels of its surroundings on every side (appendix A).

    `(H, W, 3), (R, 4) -> (R, side, side, 3)` uint8, bilinear; what lies outside the image is `fill`, the mean colour.
    """
    crops = np.empty((len(boxes), side, side, 3), np.uint8)
    inner = side - 2 * context
    for crop, (x1, y1, x2, y2) in zip(crops, boxes, strict=True):
        sx, sy = inner / (x2 - x1), inner / (y2 - y1)
        # pixel centres are at halves: (u + 0.5) = sx * (x + 0.5 - x1) + context
        matrix = np.array([[sx, 0, sx * (0.5 - x1) + context - 0.5], [0, sy, sy * (0.5 - y1) + context - 0.5]])
        cv2.warpAffine(image, matrix, (side, side), dst=crop, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
                       borderValue=tuple(fill))
    return crops


def label_windows(boxes: np.ndarray, truth: Any, foreground: float) -> np.ndarray:
    """The labels (R,) of windows: 1 + the class of an object of that IoU or more, else 0; -1 for a difficult one."""
    if not len(truth.classes) or not len(boxes):
        return np.zeros(len(boxes), int)
    iou = iou_matrix(boxes, truth.boxes)
    nearest = iou.argmax(1)
    labels = np.where(truth.difficult[nearest], -1, truth.classes[nearest] + 1)
    return np.where(iou.max(1) >= foreground, labels, 0)


class Windows:
    """Batches of crops from all images, a quarter of them foreground (section 2.3), by step number.

    A batch has `crops` (B, S, S, 3) uint8 and `labels` (B,).
    """

    def __init__(self, data: DetectionSet, windows: Sequence[np.ndarray], settings: Any, fill: Sequence[float],
                 batch_size: int, seed: int, flip: bool) -> None:
        self.data, self.settings, self.fill, self.seed, self.flip = data, settings, fill, seed, flip
        self.images = [data.read(i) for i in range(len(data))]
        self.foreground = round(batch_size * settings.fraction)
        self.batch_size = batch_size
        boxes = [np.concatenate([o.boxes, w]) for w, o in zip(windows, data.objects, strict=True)]
        labels = np.concatenate([label_windows(b, o, settings.foreground)
                                 for b, o in zip(boxes, data.objects, strict=True)])
        self.image = np.repeat(np.arange(len(data)), [len(b) for b in boxes])
        self.boxes, self.labels = np.concatenate(boxes), labels
        self.positive, self.negative = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 3, step])
        foreground = self.foreground if len(self.positive) else 0
        rows = np.concatenate([rng.choice(self.positive, foreground),
                               rng.choice(self.negative, self.batch_size - foreground)])
        crops = np.concatenate([warp(self.images[self.image[r]], self.boxes[r][None], self.settings.side,
                                     self.settings.context, self.fill) for r in rows])
        if self.flip:
            flipped = rng.random(len(rows)) < 0.5
            crops[flipped] = crops[flipped][:, :, ::-1]
        return {"crops": crops, "labels": self.labels[rows]}

    def stream(self, step: int = 0) -> Iterator[Batch]:
        """The batches from `step` on, made some steps ahead."""
        return ahead_of_time(self, step)


def loss(module: RCNN, variables: Variables, batch: Any, key: jax.Array) -> Any:
    """Softmax cross-entropy of a batch of windows: `(loss, (batch_stats, metrics))`."""
    scores, new = module.apply(variables, batch["crops"], train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    value = class_loss(scores, batch["labels"], jnp.ones(len(batch["labels"]), bool))
    return value, (new.get("batch_stats", {}), {"error": (scores.argmax(-1) != batch["labels"]).mean()})


def fill_colour(config: Any) -> tuple[float, ...]:
    """The mean colour, which the network sees as 0."""
    return tuple(255 * m for m in config.backbone.mean)


def random_windows(data: DetectionSet, seed: int, count: int = 32) -> list[np.ndarray]:
    """Windows for pre-training without proposals: each object moved a little, four times, and others at random."""
    windows = []
    for i, (size, objects) in enumerate(zip(data.sizes, data.objects, strict=True)):
        rng = np.random.default_rng([seed, 4, i])
        near = np.repeat(objects.boxes, 4, 0)
        sides = np.tile(near[:, 2:] - near[:, :2], 2)
        near = near + sides * rng.uniform(-0.15, 0.15, near.shape)
        far = np.sort(rng.uniform(0, 1, (count, 2, 2)), 1).reshape(-1, 4) * np.tile(size[::-1], 2)
        boxes = np.concatenate([near, far]).clip(0, np.tile(size[::-1], 2)).astype(np.float32)
        windows.append(boxes[((boxes[:, 2:] - boxes[:, :2]) >= 4).all(1)])
    return windows


def finetune(config: Any, data: DetectionData, folder: Path, variables: Variables, windows: Sequence[np.ndarray],
             phase: Any, name: str) -> Variables:
    """The network trained to classify windows, `variables` to begin with."""
    module = create(backbones.create(config.backbone, config.dtype), len(data.classes))
    batches = Windows(data.train, windows, config.rcnn, fill_colour(config), phase.batch_size, config.seed,
                      config.data.flip)
    return common.train(phase, config.seed, folder, variables, partial(loss, module), batches.stream,
                        config.backbone.frozen, name)


def pretrain(config: Any, data: DetectionData, folder: Path) -> Variables:
    """A backbone from nothing: the network trained to classify windows cut from the training images.

    It stands where the papers have ImageNet, and is what all four detectors start from.
    """
    module = create(backbones.create(config.backbone, config.dtype), len(data.classes))
    return finetune(config, data, folder, initialise(module, config.rcnn.side, config.seed),
                    random_windows(data.train, config.seed), config.pretraining, "pre-training")


def extractor(config: Any, num_classes: int, variables: Variables) -> linear.Extract:
    """The network's features of any number of boxes of an image, `config.rcnn.forward` crops at a time."""
    module = create(backbones.create(config.backbone, config.dtype), num_classes)
    program = jax.jit(partial(module.apply, method="features"))
    variables = jax.device_put(variables)
    batch, fill = config.rcnn.forward, fill_colour(config)

    def extract(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(boxes), batch):
            crops = warp(image, boxes[start:start + batch], config.rcnn.side, config.rcnn.context, fill)
            padded = np.concatenate([crops, np.zeros((batch - len(crops), *crops.shape[1:]), np.uint8)])
            parts.append([np.asarray(rows)[: len(crops)] for rows in program(variables, padded)])
        pooled, top = zip(*parts, strict=True)
        return np.concatenate(pooled), np.concatenate(top)
    return extract


def train(config: Any, data: DetectionData, folder: Path, start: Variables, proposals: Sequence[np.ndarray],
          ) -> Variables:
    """Fine-tuning, features to disk, SVMs, box regression. `start` holds the variables of trunk and head.

    Returns the network's variables with the groups "svm" and "ridge" beside them.
    """
    classes = len(data.classes)
    module = create(backbones.create(config.backbone, config.dtype), classes)
    variables = backbones.transplant(initialise(module, config.rcnn.side, config.seed), start,
                                     {"trunk": "trunk", "head": "head"})
    variables = finetune(config, data, folder / "finetune", variables, proposals, config.rcnn.training, "R-CNN")
    return {**variables, "top": linear.fit(data.train, proposals, extractor(config, classes, variables), classes,
                                           config.rcnn, config.seed, folder / "features")}


def detector(config: Any, num_classes: int, variables: Variables, search: Cache) -> Detector:
    """The trained detector on single images."""
    extract = extractor(config, num_classes, {k: v for k, v in variables.items() if k != "top"})
    return linear.detector(extract, variables["top"], config.rcnn.test, search)
