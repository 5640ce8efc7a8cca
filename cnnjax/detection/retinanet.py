"""RetinaNet: Lin, Goyal, Girshick, He and Dollár 2017, "Focal Loss for Dense Object Detection"."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import fields, ops
from cnnjax.data.canvases import fit_canvas
from cnnjax.detection import fpn
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables
from cnnjax.detection.fpn import EXTRA, Pyramid, PyramidAnchors
from cnnjax.detection.losses import smooth_l1
from cnnjax.detection.postprocess import Postprocess, best_boxes, each_image
from cnnjax.detection.resize import resize_and_pad
from cnnjax.detection.targets import Truth
from cnnjax.fields import COUNT, NOT_NEGATIVE, SHARE, setting
from cnnjax.models.layers import conv, he_normal


class Head(nn.Module):
    """Four 3x3 convolutions, each rectified, and one more (figure 3). `(N, h, w, C) -> (N, h, w, outputs)` float32.

    All start as N(0, 0.01) without bias, but for `prior`: the probability that the sigmoid of the last one's begins
    with (section 4.1). `std` 0 starts the four as He et al. 2015 instead: 0.01 suits the paper's 256 channels, of 64
    four such layers leave a thousandth of the signal.
    """

    outputs: int
    prior: float = 0.5
    std: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = partial(conv, kernel=3, use_bias=True, dtype=self.dtype)
        hidden = nn.initializers.normal(self.std) if self.std else he_normal
        for i in range(1, 5):
            x = nn.relu(layer(x.shape[-1], kernel_init=hidden, name=f"conv{i}")(x))
        bias = nn.initializers.constant(-math.log((1 - self.prior) / self.prior))
        return layer(self.outputs, kernel_init=nn.initializers.normal(0.01), bias_init=bias,
                     name="output")(x).astype(jnp.float32)


class Network(nn.Module):
    """Figure 3: a pyramid, and the same two heads over each of its levels."""

    trunk: Pyramid
    class_head: Head
    box_head: Head
    anchors: PyramidAnchors

    def __call__(self, images: jax.Array, sizes: jax.Array, *, train: bool = False,
                 ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Of each level the logits (N, A, K) and deltas (N, A, 4) of its anchors, and these (A, 4)."""
        levels = self.trunk(images, sizes, train=train)
        anchors = self.anchors(images.shape[1:3], levels)
        logits, deltas = ([head(features).reshape(len(images), len(a), -1)
                           for (features, _), a in zip(levels.values(), anchors, strict=True)]
                          for head in (self.class_head, self.box_head))
        return logits, deltas, anchors


BACKBONE = Backbone("resnet50", frozen=("trunk/net/conv1", "trunk/net/norm1", "trunk/net/stage1"))

PAPER_SIZES = tuple(tuple(2.0 ** (5 + level + octave / 3) for octave in range(3)) for level in range(5))
"""Three octave scales a level, 32 to 813 pixels (section 4)."""

TORCHVISION_SIZES = tuple(tuple(float(int(2 ** level * 2 ** (octave / 3))) for octave in range(3))
                          for level in range(5, 10))
"""The same cut to whole pixels: 32, 40, 50, 64, 80, 101, ..."""


@dataclass(frozen=True)
class RetinaNet:
    """RetinaNet; the defaults are the paper's, for COCO, with ResNet-50."""

    num_classes: int
    backbone: Backbone = field(default_factory=lambda: BACKBONE)
    backbone_stages: Sequence[str] = setting(("stage2", "stage3", "stage4"), text="maps C3 to C5", length=0)
    channels: int = setting(256, "[1, 65536]", "of the pyramid")
    extra: str = setting("C5", EXTRA, "what the levels after the backbone's are made of")
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    canvases: Sizes = ((800, 1344), (1344, 800))
    sizes: Sequence[Sequence[float]] = setting(PAPER_SIZES, "", "pixels of the anchors of each level", length=0)
    ratios: Sequence[float] = setting((0.5, 1.0, 2.0), "[0.01, 100]", "height over width of anchors", length=0)
    prior: float = setting(0.01, "(0, 1)", "probability of an object that training begins with")
    head_std: float = setting(0.01, NOT_NEGATIVE, "of the heads' first weights; 0: by their width, He et al. 2015")
    positive: float = setting(0.5, SHARE, "IoU from which an anchor is an object")
    negative: float = setting(0.4, SHARE, "IoU under which it is background")
    focal_gamma: float = setting(2.0, NOT_NEGATIVE, "how much less a right answer counts (section 3.2)")
    focal_alpha: float = setting(0.25, SHARE, "weight of the objects; 1 - focal_alpha is that of the background")
    box_beta: float = setting(1 / 9, NOT_NEGATIVE, "where smooth L1 bends; 0: L1")
    pre_nms_top_n: int = setting(1000, COUNT, "scores of a level that go into NMS")
    test: Postprocess = field(default_factory=lambda: Postprocess(nms=0.5))
    resize: Sequence[int] = setting((), COUNT, "torchvision's preprocessing to (short side, long side), not canvases")

    title: ClassVar[str] = "RetinaNet"
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.5
    pretrained: ClassVar[Mapping[str, str]] = {"trunk/net": "trunk/net"}

    @property
    def frozen(self) -> Sequence[str]:
        return self.backbone.frozen

    @cached_property
    def network(self) -> Network:
        pyramid, _ = fpn.create(self.backbone, self.backbone_stages, self.channels, self.extra, self.dtype)
        anchors = PyramidAnchors(self.sizes, self.ratios)
        return Network(pyramid, Head(anchors.per_place * self.num_classes, self.prior, self.head_std, self.dtype),
                       Head(4 * anchors.per_place, std=self.head_std, dtype=self.dtype), anchors)

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector.preprocess`: on the canvas that suits the image, or as torchvision resizes."""
        return resize_and_pad(image, *self.resize) if self.resize else fit_canvas(image, self.canvases)

    def init(self, key: jax.Array) -> Variables:
        """Random variables."""
        return jax.jit(self.network.init)(key, jnp.zeros((1, 128, 128, 3), jnp.uint8), jnp.full((1, 2), 128))

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """Focal loss and box loss, each divided by the number of an image's positive anchors (sections 3 and 4.1)."""
        (logits, deltas, anchors), new = self.network.apply(variables, batch["images"], batch["sizes"], train=True,
                                                            mutable=["batch_stats"])
        every = partial(jnp.concatenate, axis=1)
        class_loss, box_loss = jax.vmap(partial(image_loss, settings=self), (0, 0, None, 0, 0))(
            every(logits), every(deltas), jnp.concatenate(anchors), batch["sizes"], Truth.of(batch))
        terms = {"class_loss": class_loss.mean(), "box_loss": box_loss.mean()}
        state = {name: tree for name, tree in variables.items() if name != "params"} | new
        return terms["class_loss"] + terms["box_loss"], (state, terms)

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`."""
        return _predict(self, variables, canvases, sizes)


def create(num_classes: int = 80, **values: Any) -> RetinaNet:
    """The detector with other values in some of its fields."""
    return fields.replace(RetinaNet(num_classes), values)


def create_torchvision(num_classes: int = 91, **values: Any) -> RetinaNet:
    """torchvision's `retinanet_resnet50_fpn`, by default for its weights of COCO: they have 91 classes, of which the
    first, the background of other detectors, is never detected."""
    default = RetinaNet(num_classes, backbone=replace(BACKBONE, stride_in_3x3=True), extra="P5",
                        sizes=TORCHVISION_SIZES, box_beta=0.0, resize=(800, 1333),
                        test=Postprocess(nms=0.5, max_detections=300, min_size=-1.0))
    return fields.replace(default, values)


def focal_loss(logits: jax.Array, targets: jax.Array, gamma: float, alpha: float) -> jax.Array:
    """`-a (1 - p)^gamma log(p)` of the probability p of the right answer (eq. 5), of the same shape as the logits.

    `targets` are 1 or 0; a is `alpha` for 1 and `1 - alpha` for 0.
    """
    right = jnp.where(targets > 0, logits, -logits)
    weight = jnp.where(targets > 0, alpha, 1 - alpha)
    return -weight * jax.nn.sigmoid(-right) ** gamma * jax.nn.log_sigmoid(right)


def image_loss(logits: jax.Array, deltas: jax.Array, anchors: jax.Array, size: jax.Array, truth: Truth,
               settings: RetinaNet) -> tuple[jax.Array, jax.Array]:
    """Focal loss and box loss of one image, `(A, K), (A, 4), (A, 4)`, each over its positive anchors' number.

    An anchor is positive at an IoU of `settings.positive` with an object or where it is the best of one, as in the
    released code, and background under `settings.negative` with all; others, those near difficult objects and those
    centred on the padding take no part in the focal loss.
    """
    usable = ops.centred_inside(anchors, size[0], size[1])
    matches = ops.match_boxes(anchors, truth.boxes, truth.mask, settings.positive, settings.negative,
                              best_is_positive=True, ignored=truth.difficult, usable=usable)
    positive = matches.labels == ops.POSITIVE
    count = jnp.maximum(positive.sum(), 1)
    nearest = jnp.where(positive, truth.classes[matches.objects], -1)
    targets = jax.nn.one_hot(nearest, logits.shape[-1])                                 # -1: zeros
    focal = focal_loss(logits, targets, settings.focal_gamma, settings.focal_alpha)
    class_loss = jnp.where((matches.labels != ops.IGNORED)[:, None], focal, 0).sum() / count
    wanted = ops.encode_boxes(truth.boxes[matches.objects], anchors)
    errors = jnp.where(positive[:, None], deltas - wanted, 0)
    errors = smooth_l1(errors, settings.box_beta) if settings.box_beta else jnp.abs(errors)
    return class_loss, errors.sum() / count


@partial(jax.jit, static_argnums=0)
def _predict(detector: RetinaNet, variables: Variables, images: jax.Array, sizes: jax.Array) -> DetectorOutput:
    logits, deltas, anchors = detector.network.apply(variables, images, sizes)
    return each_image(partial(detections, anchors=anchors, settings=detector), logits, deltas, sizes)


def detections(logits: Sequence[jax.Array], deltas: Sequence[jax.Array], size: jax.Array,
               anchors: Sequence[jax.Array], settings: RetinaNet) -> DetectorOutput:
    """The detections on one image of height and width `size`, from the logits (A, K) and deltas (A, 4) of each level.

    Of a level the best `settings.pre_nms_top_n` scores over the threshold are decoded; then NMS per class over all.
    """
    boxes, scores, classes = [], [], []
    for of_level, moved, placed in zip(logits, deltas, anchors, strict=True):
        every = of_level.reshape(-1)                                                    # (A * K,)
        top, index = lax.top_k(every, min(settings.pre_nms_top_n, len(every)))
        anchor, of_class = jnp.divmod(index, of_level.shape[-1])
        boxes.append(ops.clip_boxes(ops.decode_boxes(moved[anchor], placed[anchor]), size[0], size[1]))
        scores.append(jax.nn.sigmoid(top))
        classes.append(of_class)
    return best_boxes(jnp.concatenate(boxes), jnp.concatenate(scores), jnp.concatenate(classes), settings.test)
