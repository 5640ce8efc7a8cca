"""SPP-net: He, Zhang, Ren and Sun 2014. One pass over the image; each region is pooled into a pyramid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import fields, ops
from cnnjax.data.canvases import fit_canvas, rescale_boxes
from cnnjax.detection import backbones, linear
from cnnjax.detection.backbones import Backbone, DenseHead, only
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables, example_keys
from cnnjax.detection.inference import next_power_of_two
from cnnjax.detection.losses import class_loss
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.detection.stages import Setup, Stage, Training
from cnnjax.detection.targets import Truth, check_background, roi_targets
from cnnjax.fields import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, setting


class Network(nn.Module):
    """A trunk at several scales, a spatial pyramid of each region, fully connected layers (section 4)."""

    trunk: nn.Module
    head: nn.Module
    num_classes: int
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
            features, stride = only(self.trunk(resized, jnp.round(sizes * scale).astype(int), train=False))
            pool = partial(ops.roi_pyramid_pool, spatial_scale=scale / stride, levels=self.levels)
            at_scale = jax.vmap(pool)(features, rois)
            pooled = at_scale if pooled is None else jnp.where((best == s)[..., None], at_scale, pooled)
        assert pooled is not None
        return pooled

    def features(self, pyramids: jax.Array, *, train: bool = False) -> jax.Array:
        """The fully connected layers: `(R, F) -> (R, D)`."""
        return self.head(pyramids, train=train)

    def __call__(self, images: jax.Array, sizes: jax.Array, rois: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(N, R, K + 1)`, background first."""
        pyramids = jax.lax.stop_gradient(self.pyramids(images, sizes, rois))
        n, r, f = pyramids.shape
        return self.classes(self.features(pyramids.reshape(n * r, f), train=train).astype(jnp.float32)
                            ).reshape(n, r, -1)


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
        features, _ = only(self.trunk(images, sizes, train=train))
        x = self.head(jax.vmap(partial(ops.spatial_pyramid_pool, levels=self.levels))(features), train=train)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classes")(
            x.astype(jnp.float32))


@dataclass(frozen=True)
class SPPNet:
    """SPP-net; the defaults are the paper's, for VOC 2007. Its fully connected layers are its own."""

    num_classes: int
    backbone: Backbone = field(default_factory=Backbone)
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    canvases: Sizes = ((600, 1000), (1000, 600))
    proposals: SelectiveSearch = field(default_factory=SelectiveSearch)
    levels: Sequence[int] = setting((1, 2, 3, 6), "[1, 64]", "bins a side", length=0)
    scales: Sequence[float] = setting((0.8, 0.96, 1.1467, 1.44, 2.0), "(0, 16]", "of the canvas: 480, 576, 688, 864, "
                                      "1200 of 600", length=0)
    target: float = setting(224.0, "[1, 8192]", "a region is read at the scale that brings it nearest to this side")
    rois: int = setting(64, COUNT, "sampled of each image")
    fraction: float = setting(0.25, SHARE, "of them foreground, at most")
    foreground: float = setting(0.5, SHARE, "IoU from which an RoI is an object")
    background: tuple[float, float] = setting((0.1, 0.5), SHARE, "IoU of an RoI that is background", length=2)
    regress: float = setting(0.5, SHARE, "IoU from which boxes are regressed")
    svm_c: float = setting(1e-3, POSITIVE, "penalty of the SVMs' errors")
    svm_negative: float = setting(0.3, SHARE, "IoU under which a region is a negative of an SVM")
    svm_refit: int = setting(2000, COUNT, "hard negatives after which an SVM is fitted again")
    ridge: float = setting(1000.0, NOT_NEGATIVE, "penalty of box regression")
    test: Postprocess = field(default_factory=lambda: Postprocess(score_threshold=-1.0))

    title: ClassVar[str] = "SPP-net"
    needs_proposals: ClassVar[bool] = True
    default_score_threshold: ClassVar[float] = 0.0      # the plane of an SVM
    scored_in_training: ClassVar[bool] = False          # its SVMs come after
    pretrained: ClassVar[Mapping[str, str]] = {"trunk": "trunk"}
    frozen: ClassVar[tuple[str, ...]] = ("trunk/",)

    def __post_init__(self) -> None:
        check_background("sppnet", self.background)

    @cached_property
    def network(self) -> Network:
        trunk, _, _ = backbones.create(self.backbone, self.dtype)
        head = DenseHead(self.backbone.hidden, self.backbone.dropout, dtype=self.dtype)
        return Network(trunk, head, self.num_classes, self.levels, self.scales, self.target)

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector.preprocess`; the canvas is that of scale 1."""
        return fit_canvas(image, self.canvases)

    def init(self, key: jax.Array) -> Variables:
        """Random variables, with SVMs and box regression of zeros."""
        inputs = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64), jnp.zeros((1, 1, 4))
        variables = jax.jit(partial(self.network.init, train=False))(key, *inputs)
        pyramids = jax.eval_shape(lambda: self.network.apply(variables, *inputs, method="pyramids"))
        return {**variables, "linear": linear.init(self.num_classes, pyramids.shape[-1], self.backbone.hidden[-1])}

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """Softmax cross-entropy of sampled RoIs, by which the fully connected layers are fine-tuned."""
        sample_key, dropout = jax.random.split(key)
        targets = jax.vmap(partial(roi_targets, settings=self))(
            example_keys(sample_key, len(batch["images"]), axis_name), batch["proposals"], batch["proposals_mask"],
            Truth.of(batch))
        scores = self.network.apply(variables, batch["images"], batch["sizes"], targets.boxes, train=True,
                                    rngs={"dropout": dropout})
        state = {name: tree for name, tree in variables.items() if name != "params"}
        return (class_loss(scores, targets.labels, targets.mask, axis_name),
                (state, {"foreground": (targets.labels > 0).mean()}))

    def stages(self, setup: Setup) -> list[Stage]:
        """Fine-tuning of the fully connected layers, then SVMs and box regression on features kept in "features"."""
        def finetune(done: Mapping[str, Variables], folder: Path) -> Training:
            variables = {name: tree for name, tree in setup.variables.items() if name != "linear"}
            return Training(variables, self.loss, setup.batches(self.canvases, setup.proposals()).stream, self.frozen,
                            self.title, setup.seed)

        def classify(done: Mapping[str, Variables], folder: Path) -> Variables:
            variables = done["finetune"]
            return {**variables, "linear": linear.fit(setup.images, setup.proposals(), self.extractor(variables),
                                                      self.num_classes, self, setup.seed, folder / "features")}
        return [("finetune", finetune), ("linear", classify)]

    def extractor(self, variables: Variables) -> linear.Extract:
        """The pyramids and the fully connected features of the boxes of an image."""
        network = jax.device_put({name: tree for name, tree in variables.items() if name != "linear"})

        def extract(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            canvas, size = self.preprocess(image)
            rois = np.zeros((1, next_power_of_two(len(boxes)), 4), np.float32)
            rois[0, : len(boxes)] = rescale_boxes(boxes, image.shape[:2], size)
            pyramids, features = jax.device_get(_features(self, network, canvas[None], size[None], rois))
            return pyramids[0, : len(boxes)], features[0, : len(boxes)]
        return extract

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`."""
        return _predict(self, variables, canvases, sizes, proposals)


def create(num_classes: int = 20, **values: Any) -> SPPNet:
    """The detector with other values in some of its fields."""
    return fields.replace(SPPNet(num_classes), values)


@partial(jax.jit, static_argnums=0)
def _features(detector: SPPNet, variables: Variables, images: jax.Array, sizes: jax.Array,
              rois: jax.Array) -> tuple[jax.Array, jax.Array]:
    pyramids = detector.network.apply(variables, images, sizes, rois, method="pyramids")
    n, r, f = pyramids.shape
    features = detector.network.apply(variables, pyramids.reshape(n * r, f), method="features")
    return pyramids, features.reshape(n, r, -1)


@partial(jax.jit, static_argnums=0)
def _predict(detector: SPPNet, variables: Variables, images: jax.Array, sizes: jax.Array,
             rois: jax.Array) -> DetectorOutput:
    network = {name: tree for name, tree in variables.items() if name != "linear"}
    pyramids, features = _features(detector, network, images, sizes, rois)
    return linear.classify(variables["linear"], detector.test, pyramids, features, rois, sizes)
