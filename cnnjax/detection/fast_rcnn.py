"""Fast R-CNN: Girshick 2015. One pass over the image, RoI pooling, class and box from one loss."""

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
from cnnjax.data.canvases import fit_canvas
from cnnjax.detection import backbones
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables, example_keys
from cnnjax.detection.postprocess import Postprocess, postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.detection.roi_heads import RoIHeads, RoIPool, roi_loss
from cnnjax.detection.stages import Setup, Stage, Training
from cnnjax.detection.targets import Truth, check_background, roi_targets
from cnnjax.errors import UserError
from cnnjax.fields import COUNT, SHARE, setting


class Network(nn.Module):
    """Figure 1: a trunk over the whole image, RoI heads over its level."""

    trunk: nn.Module
    roi_heads: RoIHeads

    def __call__(self, images: jax.Array, sizes: jax.Array, rois: jax.Array, *, train: bool = False,
                 ) -> tuple[jax.Array, jax.Array]:
        """Scores `(N, R, K + 1)`, background first, and deltas of each class `(N, R, K, 4)` of the RoIs `(N, R, 4)`."""
        return self.roi_heads(self.trunk(images, sizes, train=train), rois, train=train)


@dataclass(frozen=True)
class FastRCNN:
    """Fast R-CNN; the defaults are the paper's, for VOC 2007."""

    num_classes: int
    backbone: Backbone = field(default_factory=Backbone)
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    canvases: Sizes = ((600, 1000), (1000, 600))
    proposals: SelectiveSearch = field(default_factory=SelectiveSearch)
    pooling: str = setting("pool", ("pool", "align"), "RoIPool or RoIAlign")
    rois: int = setting(64, COUNT, "sampled of each image")
    fraction: float = setting(0.25, SHARE, "of them foreground, at most")
    foreground: float = setting(0.5, SHARE, "IoU from which an RoI is an object")
    background: tuple[float, float] = setting((0.1, 0.5), SHARE, "IoU of an RoI that is background", length=2)
    svd_ranks: Sequence[int] = setting((0, 0), "[0, 65536]", "of the head's layers at test, (1024, 256) in the paper; "
                                       "0: as trained")
    test: Postprocess = field(default_factory=Postprocess)

    title: ClassVar[str] = "Fast R-CNN"
    needs_proposals: ClassVar[bool] = True
    default_score_threshold: ClassVar[float] = 0.5
    pretrained: ClassVar[Mapping[str, str]] = {"trunk": "trunk", "roi_heads/head": "head"}

    def __post_init__(self) -> None:
        check_background("fast_rcnn", self.background)
        if any(self.svd_ranks) and len(self.svd_ranks) != len(self.backbone.hidden):
            raise UserError(f"config field 'fast_rcnn.svd_ranks': found {self.svd_ranks}, expected a rank for each of "
                            f"backbone.hidden = {self.backbone.hidden}")

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(self.backbone.frozen)

    @cached_property
    def network(self) -> Network:
        trunk, head, _ = backbones.create(self.backbone, self.dtype)
        return Network(trunk, RoIHeads(head, self.num_classes, RoIPool(self.backbone.pool, self.pooling)))

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector.preprocess`: the short side to 600 pixels, the long side to at most 1,000 (section 3)."""
        return fit_canvas(image, self.canvases)

    def init(self, key: jax.Array) -> Variables:
        """Random variables."""
        return jax.jit(partial(self.network.init, train=False))(
            key, jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64), jnp.zeros((1, 1, 4)))

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """The multi-task loss of sampled proposals (section 2.3)."""
        return head_loss(self.network, self, variables, batch, key, axis_name)

    def stages(self, setup: Setup) -> list[Stage]:
        """The training, then with `svd_ranks` the head's layers factorised (section 3.1)."""
        def train(done: Mapping[str, Variables], folder: Path) -> Training:
            return setup.whole(self, setup.batches(self.canvases, setup.proposals()).stream)

        def factorise(done: Mapping[str, Variables], folder: Path) -> Variables:
            params = done["train"]["params"]
            head = backbones.truncate(params["roi_heads"]["head"], self.svd_ranks)
            return {**done["train"], "params": {**params, "roi_heads": {**params["roi_heads"], "head": head}}}
        return [("train", train), ("svd", factorise)] if any(self.svd_ranks) else [("train", train)]

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`."""
        return _predict(self, variables, canvases, sizes, proposals)


def create(num_classes: int = 20, **values: Any) -> FastRCNN:
    """The detector with other values in some of its fields."""
    return fields.replace(FastRCNN(num_classes), values)


def head_loss(network: Network, settings: Any, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array,
              axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
    """Class and box loss of RoIs that are sampled, as `settings` says, from the minibatch's "proposals"."""
    sample_key, dropout = jax.random.split(key)
    keys = example_keys(sample_key, len(batch["images"]), axis_name)
    targets = jax.vmap(partial(roi_targets, settings=settings))(
        keys, batch["proposals"], batch["proposals_mask"], Truth.of(batch))
    (scores, deltas), new = network.apply(variables, batch["images"], batch["sizes"], targets.boxes, train=True,
                                          rngs={"dropout": dropout}, mutable=["batch_stats"])
    terms = roi_loss(scores, deltas, targets, axis_name)
    state = {name: tree for name, tree in variables.items() if name != "params"} | new
    return sum(terms.values(), jnp.float32(0)), (state, {**terms, "foreground": (targets.labels > 0).mean()})


@partial(jax.jit, static_argnums=0)
def _predict(detector: FastRCNN, variables: Variables, images: jax.Array, sizes: jax.Array,
             rois: jax.Array) -> DetectorOutput:
    network = detector.network
    if any(layer.endswith("_u") for layer in variables["params"]["roi_heads"]["head"]):         # factorised
        heads = network.roi_heads
        network = network.clone(roi_heads=heads.clone(head=heads.head.clone(ranks=detector.svd_ranks)))
    scores, deltas = network.apply(variables, images, sizes, rois)
    return postprocess(rois, ops.box_area(rois) > 0, jax.nn.softmax(scores)[..., 1:], deltas, sizes, detector.test)
