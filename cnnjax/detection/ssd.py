"""SSD: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, "SSD: Single Shot MultiBox Detector" (2016).

One pass scores default boxes on maps of several sizes. `create` is the paper's network as its released code has it,
`create_torchvision` the one that torchvision's weights are for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnnjax import fields, ops
from cnnjax.detection.backbones import normalise
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables
from cnnjax.detection.losses import smooth_l1, total_count
from cnnjax.detection.postprocess import BOX_WEIGHTS, Postprocess, best_boxes, each_image
from cnnjax.detection.targets import Truth
from cnnjax.errors import UserError
from cnnjax.fields import COUNT, NOT_NEGATIVE, SHARE, setting
from cnnjax.models.layers import BatchNorm, conv
from cnnjax.models.vgg import VGG

XAVIER = nn.initializers.xavier_uniform()

PAPER: Mapping[int, dict[str, Any]] = {
    300: {"scales": (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05), "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
          "steps": (8.0, 16.0, 32.0, 64.0, 100.0, 300.0),
          "extras": ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))},
    512: {"scales": (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), "ratios": ((2,), *((2, 3),) * 4, (2,), (2,)),
          "steps": (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
          "extras": ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))},
}
"""The fields of the released code's SSD300 and SSD512 (VOC) by the image's side."""


class SSDNetwork(nn.Module):
    """The network. `(N, H, W, 3)` normalised pixels to logits `(N, A, K)`, the background first, and deltas
    `(N, A, 4)`, float32, of all default boxes.

    VGG to conv5 with pools that round up; pool5 3x3 at stride 1; fc6 as a 3x3 convolution of dilation 6, fc7 as 1x1;
    then `extras`, pairs of a 1x1 and a larger convolution: (filters of the first, filters, kernel, stride, padding) of
    the second. The maps of conv4, L2-normalised at each place and scaled (section 3.1), of fc7 and of each pair are
    predicted from by 3x3 convolutions, for `boxes[i]` boxes a place.
    """

    num_classes: int                        # K, with the background
    boxes: Sequence[int]
    extras: Sequence[Sequence[int]]
    convs: Sequence[int]
    width: int
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        def layer(x: jax.Array, filters: int, kernel: int, name: str, **options: Any) -> jax.Array:
            x = conv(filters, kernel, use_bias=True, kernel_init=XAVIER, dtype=self.dtype, name=name, **options)(x)
            return nn.relu(BatchNorm(name=f"{name}_norm")(x, train=train) if self.batch_norm else x)

        def predict(x: jax.Array, i: int, columns: int, name: str) -> jax.Array:
            y = conv(self.boxes[i] * columns, 3, use_bias=True, kernel_init=XAVIER, dtype=self.dtype, name=name)(x)
            return y.reshape(len(y), -1, columns).astype(jnp.float32)               # (N, h * w * boxes, columns)

        vgg = VGG(convs=self.convs, width=self.width, batch_norm=self.batch_norm, pool_ceil=True, dtype=self.dtype,
                  name="vgg")(x, train=train, features=True)
        scale = self.param("conv4_scale", nn.initializers.constant(20.0), (vgg["conv4"].shape[-1],))
        maps = [scale * l2_normalise(vgg["conv4"])]                                 # 38x38x512 of 300x300
        x = nn.max_pool(vgg["conv5"], (3, 3), padding="SAME")
        x = layer(x, 16 * self.width, 3, "fc6", padding=6, kernel_dilation=6)
        x = layer(x, 16 * self.width, 1, "fc7")                                     # 19x19x1024
        maps.append(x)
        for i, (reduced, filters, kernel, stride, padding) in enumerate(self.extras, 8):
            x = layer(x, reduced, 1, f"conv{i}_1")
            x = layer(x, filters, kernel, f"conv{i}_2", stride=stride, padding=padding)
            maps.append(x)                                                          # 10, 5, 3, 1
        logits = [predict(x, i, self.num_classes, f"classes{i}") for i, x in enumerate(maps)]
        deltas = [predict(x, i, 4, f"boxes{i}") for i, x in enumerate(maps)]
        return jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)


def l2_normalise(x: jax.Array) -> jax.Array:
    """Each place's features over their Euclidean norm, `(..., C) -> (..., C)` float32; zeros stay, with finite
    gradients."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


@dataclass(frozen=True)
class SSD:
    """SSD as a detector; the defaults are SSD300's. Images are stretched to `size` x `size`."""

    num_classes: int
    size: int = setting(300, "[32, 8192]", "pixels a side of the canvas")
    scales: Sequence[float] = setting(PAPER[300]["scales"], "(0, 10]", "of the default boxes of each map and one more, "
                                      "shares of the side")
    ratios: Sequence[Sequence[float]] = setting(PAPER[300]["ratios"], text="of the default boxes of each map, but 1")
    steps: Sequence[float] = setting(PAPER[300]["steps"], "(0, 8192]", "pixels between the places of each map")
    clip: bool = setting(False, text="whether no default box is longer than the image, as in torchvision")
    extras: Sequence[Sequence[int]] = setting(PAPER[300]["extras"], text="`SSDNetwork.extras`")
    convs: Sequence[int] = setting((2, 2, 3, 3, 3), "[1, 100]", "of each stage of VGG", length=5)
    width: int = setting(64, "[1, 65536]", "filters of its first stage")
    batch_norm: bool = setting(False, text="after each convolution but the last")
    mean: Sequence[float] = setting((0.48235, 0.45882, 0.40784), "[-1000, 1000]", "of pixels in [0, 1]", length=3)
    std: Sequence[float] = setting((1 / 255,) * 3, "(0, 1000]", "of pixels in [0, 1]", length=3)
    match_iou: float = setting(0.5, SHARE, "from which a default box is an object")
    negative_ratio: float = setting(3.0, NOT_NEGATIVE, "hard negatives for each positive")
    pre_nms_top_n: int = setting(400, COUNT, "boxes of a class that go into NMS")
    test: Postprocess = field(default_factory=partial(Postprocess, score_threshold=0.01, nms=0.45, max_detections=200,
                                                      min_size=-1.0))
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")

    title: ClassVar[str] = "SSD"
    stretch: ClassVar[bool] = True
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.5

    @property
    def canvases(self) -> Sizes:
        return ((self.size, self.size),)

    @property
    def network(self) -> SSDNetwork:
        boxes = tuple(2 + 2 * len(ratios) for ratios in self.ratios)
        return SSDNetwork(self.num_classes + 1, boxes, self.extras, self.convs, self.width, self.batch_norm, self.dtype)

    def default_boxes(self) -> np.ndarray:
        """`(A, 4)` float32 in pixels of the canvas."""
        grid = self.size
        for _ in range(3):
            grid = -(-grid // 2)
        grids = [grid, -(-grid // 2)]
        for _, _, kernel, stride, padding in self.extras:
            grids.append((grids[-1] + 2 * padding - kernel) // stride + 1)
        return ops.default_boxes(self.size, grids, self.steps, self.scales, self.ratios, clip=self.clip)

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image stretched by bilinear interpolation, `(size, size, 3)` float32 in [0, 255], and (size, size).

        Not rounded to whole numbers, and not antialiased, as torchvision does it.
        """
        stretched = cv2.resize(image.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return stretched, np.array([self.size, self.size], np.int32)

    def init(self, key: jax.Array) -> Variables:
        return jax.jit(self.network.init)(key, jnp.zeros((1, self.size, self.size, 3)))

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array,
             hyper: Mapping[str, jax.Array], axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """Softmax loss of positives and hard negatives plus smooth L1 of positives, over the number of positives of
        the minibatch (eq. 1 with alpha 1)."""
        del key, hyper
        apply: Any = self.network.apply
        (logits, deltas), new = apply(variables, normalise(batch["images"], self.mean, self.std), train=True,
                                      mutable=["batch_stats"])
        boxes = jnp.asarray(self.default_boxes())
        targets = jax.vmap(partial(ssd_targets, boxes, match_iou=self.match_iou))(Truth.of(batch))
        losses = partial(multibox_loss, negative_ratio=self.negative_ratio)
        of_class, of_box = jax.vmap(losses)(logits, deltas, *targets)
        positives = (targets[0] > 0).sum()
        count = total_count(positives, axis_name)
        class_loss, box_loss = of_class.sum() / count, of_box.sum() / count
        metrics = {"class_loss": class_loss, "box_loss": box_loss, "positives": positives / len(logits)}
        return class_loss + box_loss, (dict(new), metrics)

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        del proposals
        return _predict(self, variables, canvases, sizes)


@partial(jax.jit, static_argnums=0)
def _predict(detector: SSD, variables: Variables, canvases: jax.Array, sizes: jax.Array) -> DetectorOutput:
    apply: Any = detector.network.apply
    logits, deltas = apply(variables, normalise(canvases, detector.mean, detector.std))
    return each_image(partial(postprocess, detector, jnp.asarray(detector.default_boxes())), logits, deltas, sizes)


def ssd_targets(default_boxes: jax.Array, truth: Truth, match_iou: float) -> tuple[jax.Array, jax.Array]:
    """What the default boxes (A, 4) of an image learn (section 2.2, "Matching strategy"): `(A,) int32, (A, 4)`.

    The labels are 0 for the background, 1 + class for a box that overlaps an object at `match_iou` or more or, of all
    boxes, overlaps one best, and -1, ignored, for one of the background near a difficult object. Where two objects
    have the same best box the later one has it. The deltas lead to the object, and are 0 where there is none.
    """
    matches = ops.match_boxes(default_boxes, truth.boxes, truth.mask, match_iou, match_iou, ignored=truth.difficult)
    iou = ops.box_iou(truth.boxes, default_boxes)                                       # (G, A)
    learnt = truth.mask & ~truth.difficult & (iou.max(1) > 0)
    best = jnp.where(learnt, iou.argmax(1), len(default_boxes))                         # out of range: dropped
    owner = jnp.full(len(default_boxes), -1).at[best].max(jnp.arange(len(best)), mode="drop")
    positive = (owner >= 0) | (matches.labels == ops.POSITIVE)
    objects = jnp.where(owner >= 0, owner, matches.objects)
    labels = jnp.where(positive, truth.classes[objects] + 1, jnp.where(matches.labels == ops.IGNORED, -1, 0))
    deltas = ops.encode_boxes(truth.boxes[objects], default_boxes, BOX_WEIGHTS)
    return labels.astype(jnp.int32), jnp.where(positive[:, None], deltas, 0)


def multibox_loss(logits: jax.Array, deltas: jax.Array, labels: jax.Array, targets: jax.Array,
                  negative_ratio: float) -> tuple[jax.Array, jax.Array]:
    """The sums of an image's class loss and box loss: `(A, K), (A, 4), (A,), (A, 4) -> (), ()`.

    Of the negatives those with the greatest loss are learnt, `negative_ratio` for each positive (section 2.2, "Hard
    negative mining"), equal ones by index. Without an object both are 0.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    positive, negative = labels > 0, labels == 0
    hardness = jnp.where(negative, lax.stop_gradient(losses), -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-hardness, stable=True))
    hard = negative & (rank < negative_ratio * positive.sum())
    box_losses = smooth_l1(deltas - targets).sum(-1)
    return jnp.where(positive | hard, losses, 0).sum(), jnp.where(positive, box_losses, 0).sum()


def postprocess(detector: SSD, default_boxes: jax.Array, logits: jax.Array, deltas: jax.Array,
                size: jax.Array) -> DetectorOutput:
    """The detections of one image from logits (A, K) and deltas (A, 4); equal scores by class, then by default box."""
    boxes = ops.decode_boxes(deltas, default_boxes, BOX_WEIGHTS)
    usable = jnp.isfinite(boxes).all(-1)                            # before clipping makes infinite ones finite
    boxes = ops.clip_boxes(boxes, size[0], size[1])
    scores = jax.nn.softmax(logits)[:, 1:].T                                            # (classes, A)
    scores = jnp.where(usable & (scores > detector.test.score_threshold), scores, -jnp.inf)  # NaN is over no threshold
    top, index = lax.top_k(scores, min(detector.pre_nms_top_n, len(boxes)))             # (classes, top n)
    candidates, classes = boxes[index].reshape(-1, 4), jnp.repeat(jnp.arange(len(top)), top.shape[1])
    return best_boxes(candidates, top.reshape(-1), classes, detector.test)


def torch_keys(detector: SSD) -> dict[str, str]:
    """torchvision's name of each layer or parameter, such as "vgg/conv1_1" to "backbone.features.0"."""
    keys = {"conv4_scale": "backbone.scale_weight", "fc6": "backbone.extra.0.7.1", "fc7": "backbone.extra.0.7.3"}
    number = 0                                                  # layers in sequence, rectifiers and pools included
    for stage, count in enumerate(detector.convs[:4], 1):
        for c in range(1, count + 1):
            keys[f"vgg/conv{stage}_{c}"] = f"backbone.features.{number}"
            number += 2
        number += 1
    keys |= {f"vgg/conv5_{c}": f"backbone.extra.0.{2 * c - 1}" for c in range(1, detector.convs[4] + 1)}
    for i in range(len(detector.extras)):
        keys |= {f"conv{8 + i}_1": f"backbone.extra.{i + 1}.0", f"conv{8 + i}_2": f"backbone.extra.{i + 1}.2"}
    for i in range(len(detector.ratios)):
        keys |= {f"classes{i}": f"head.classification_head.module_list.{i}",
                 f"boxes{i}": f"head.regression_head.module_list.{i}"}
    return keys


def create(num_classes: int = 20, **values: Any) -> SSD:
    """SSD300 or, with `size=512`, SSD512, other values in some fields; at another size the maps are to be given too.

    Raises UserError where they are not, or do not fit each other.
    """
    size = values.get("size", 300)
    missing = [name for name in PAPER[300] if name not in PAPER.get(size, values)]
    if missing:
        raise UserError(f"config field 'model.size': found {size}, at which {' and '.join(missing)} are to be given "
                        f"too; the paper has them for {' and '.join(map(str, PAPER))}")
    detector = fields.replace(SSD(num_classes, **PAPER.get(size, {})), values)
    maps = len(detector.extras) + 2
    for name, count in (("ratios", maps), ("steps", maps), ("scales", maps + 1)):
        if len(getattr(detector, name)) != count:
            raise UserError(f"config field 'model.{name}': found {len(getattr(detector, name))} values, expected "
                            f"{count}: there are {maps} maps, of conv4, fc7 and {len(detector.extras)} extras")
    return detector


def create_torchvision(num_classes: int = 90, **values: Any) -> SSD:
    """torchvision's `ssd300_vgg16`: its default boxes are smaller than the paper's, and no longer than the image.

    By default for its weights of COCO: 90 classes, which torchvision calls 91 with the background.
    """
    return create(num_classes, **{"scales": (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), "clip": True} | values)
