"""R-CNN: Girshick, Donahue, Darrell and Malik 2014. Regions are cut out, warped, and classified one by one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import fields, ops
from cnnjax.data.detection_sets import DetectionSet
from cnnjax.data.minibatches import Batch, ahead_of_time
from cnnjax.detection import backbones, linear
from cnnjax.detection.backbones import Backbone, only
from cnnjax.detection.detector import DetectorOutput, Variables
from cnnjax.detection.losses import class_loss
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.detection.stages import Setup, Stage, Training
from cnnjax.errors import UserError
from cnnjax.evaluation.voc_ap import iou_matrix
from cnnjax.fields import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, setting


class Network(nn.Module):
    """A classifier of warped regions: `(R, S, S, 3)` uint8 to `(R, K + 1)` logits, background first."""

    trunk: nn.Module
    head: nn.Module
    num_classes: int
    pool: int = 7

    def setup(self) -> None:
        self.classes = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))

    def features(self, crops: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """"pool5" `(R, pool * pool * C)` and the head's output `(R, D)`."""
        sizes = jnp.broadcast_to(jnp.array(crops.shape[1:3]), (len(crops), 2))
        x, _ = only(self.trunk(crops, sizes, train=train))
        pooled = jax.vmap(partial(ops.spatial_pyramid_pool, levels=(self.pool,)))(x)
        return pooled, self.head(pooled.reshape(len(x), self.pool, self.pool, -1), train=train)

    def __call__(self, crops: jax.Array, *, train: bool = False) -> jax.Array:
        return self.classes(self.features(crops, train=train)[1].astype(jnp.float32))


@dataclass(frozen=True)
class RCNN:
    """R-CNN; the defaults are the paper's, for VOC 2007."""

    num_classes: int
    backbone: Backbone = field(default_factory=Backbone)
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    proposals: SelectiveSearch = field(default_factory=SelectiveSearch)
    side: int = setting(224, "[1, 8192]", "of a warped region, pixels")
    context: int = setting(16, "[0, 8192]", "of them the surroundings, on each side")
    fraction: float = setting(0.25, SHARE, "of a minibatch of regions is foreground")
    foreground: float = setting(0.5, SHARE, "IoU from which a region is an object")
    regress: float = setting(0.6, SHARE, "IoU from which boxes are regressed")
    forward: int = setting(64, COUNT, "regions at a time at test")
    svm_c: float = setting(1e-3, POSITIVE, "penalty of the SVMs' errors")
    svm_negative: float = setting(0.3, SHARE, "IoU under which a region is a negative of an SVM")
    svm_refit: int = setting(2000, COUNT, "hard negatives after which an SVM is fitted again")
    ridge: float = setting(1000.0, NOT_NEGATIVE, "penalty of box regression")
    test: Postprocess = field(default_factory=lambda: Postprocess(score_threshold=-1.0))

    title: ClassVar[str] = "R-CNN"
    needs_proposals: ClassVar[bool] = True
    default_score_threshold: ClassVar[float] = 0.0      # the plane of an SVM
    scored_in_training: ClassVar[bool] = False          # its SVMs come after
    pretrained: ClassVar[Mapping[str, str]] = {"trunk": "trunk", "head": "head"}

    def __post_init__(self) -> None:
        if 2 * self.context >= self.side:
            raise UserError(f"config field 'rcnn.context': found {self.context}, expected less than half of side = "
                            f"{self.side}")

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(self.backbone.frozen)

    @cached_property
    def network(self) -> Network:
        trunk, head, _ = backbones.create(self.backbone, self.dtype)
        return Network(trunk, head, self.num_classes, self.backbone.pool)

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image as it is, and its size: regions are warped from it one by one."""
        return image, np.array(image.shape[:2], np.int32)

    def init(self, key: jax.Array) -> Variables:
        """Random variables, with SVMs and box regression of zeros."""
        crop = jnp.zeros((1, self.side, self.side, 3), jnp.uint8)
        variables = jax.jit(partial(self.network.init, train=False))(key, crop)
        pooled, features = jax.eval_shape(lambda: self.network.apply(variables, crop, method="features"))
        return {**variables, "linear": linear.init(self.num_classes, pooled.shape[1], features.shape[1])}

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """Softmax cross-entropy of a minibatch of `Windows`, by which the network is fine-tuned (section 2.3)."""
        scores, new = self.network.apply(variables, batch["crops"], train=True, rngs={"dropout": key},
                                         mutable=["batch_stats"])
        value = class_loss(scores, batch["labels"], jnp.ones(len(batch["labels"]), bool), axis_name)
        state = {name: tree for name, tree in variables.items() if name != "params"} | new
        return value, (state, {"error": (scores.argmax(-1) != batch["labels"]).mean()})

    def stages(self, setup: Setup) -> list[Stage]:
        """Fine-tuning, then SVMs and box regression on features that are kept in "features"."""
        def classify(done: Mapping[str, Variables], folder: Path) -> Variables:
            variables = done["finetune"]
            return {**variables, "linear": linear.fit(setup.images, setup.proposals(), self.extractor(variables),
                                                      self.num_classes, self, setup.seed, folder / "features")}
        return [("finetune", lambda done, folder: self.finetuning(setup, setup.proposals(), self.title)),
                ("linear", classify)]

    def finetuning(self, setup: Setup, windows: Sequence[np.ndarray], title: str) -> Training:
        """The training of the network as a classifier of windows (P, 4) of each image."""
        batches = Windows(setup.images, windows, self, self.fill_colour, setup.training.batch_size, setup.seed,
                          setup.flip)
        variables = {name: tree for name, tree in setup.variables.items() if name != "linear"}
        return Training(variables, self.loss, batches.stream, self.frozen, title, setup.seed)

    @property
    def fill_colour(self) -> tuple[float, ...]:
        """The mean colour, which the network sees as 0."""
        return tuple(255 * m for m in self.backbone.mean)

    def extractor(self, variables: Variables) -> linear.Extract:
        """The network's features of any number of boxes of an image, `forward` crops at a time."""
        network = jax.device_put({name: tree for name, tree in variables.items() if name != "linear"})

        def extract(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            parts = []
            for start in range(0, len(boxes), self.forward):
                crops = warp(image, boxes[start:start + self.forward], self.side, self.context, self.fill_colour)
                padded = np.concatenate([crops, np.zeros((self.forward - len(crops), *crops.shape[1:]), np.uint8)])
                parts.append([np.asarray(rows)[: len(crops)] for rows in _features(self, network, padded)])
            pooled, features = zip(*parts, strict=True)
            return np.concatenate(pooled), np.concatenate(features)
        return extract

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`. Regions are warped outside of the compiled programs."""
        assert proposals is not None
        extract, rois = self.extractor(variables), np.asarray(proposals)
        rows = []
        for canvas, (height, width), boxes in zip(np.asarray(canvases), np.asarray(sizes), rois, strict=True):
            mask = (boxes[:, 2:] > boxes[:, :2]).all(1)
            rows.append([_padded(f, mask) for f in extract(canvas[:height, :width], boxes[mask])])
        pooled, features = map(np.stack, zip(*rows, strict=True))
        return _classify(self, variables["linear"], pooled, features, rois, np.asarray(sizes))


def create(num_classes: int = 20, **values: Any) -> RCNN:
    """The detector with other values in some of its fields."""
    return fields.replace(RCNN(num_classes), values)


@partial(jax.jit, static_argnums=0)
def _features(detector: RCNN, variables: Variables, crops: jax.Array) -> Any:
    return detector.network.apply(variables, crops, method="features")


@partial(jax.jit, static_argnums=0)
def _classify(detector: RCNN, variables: Variables, *arrays: Any) -> DetectorOutput:
    return linear.classify(variables, detector.test, *arrays)


def _padded(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The rows at the places of the mask, zeros elsewhere."""
    out = np.zeros((len(mask), rows.shape[1]), np.float32)
    out[mask] = rows
    return out


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
    """Minibatches of crops from all images, a quarter of them foreground (section 2.3), by step number.

    One has `crops` (B, S, S, 3) uint8 and `labels` (B,).
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


def random_windows(data: DetectionSet, seed: int, count: int = 32) -> list[np.ndarray]:
    """Windows for pre-training without proposals: four jittered copies of each object, and others at random."""
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
