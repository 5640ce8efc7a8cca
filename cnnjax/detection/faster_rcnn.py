"""Faster R-CNN: Ren, He, Girshick and Sun 2015. The proposals come from the network; all is one program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import fields
from cnnjax.data.canvases import fit_canvas, rescale_boxes
from cnnjax.data.detection_sets import DetectionSet
from cnnjax.detection import backbones, fast_rcnn
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables, example_keys
from cnnjax.detection.postprocess import Postprocess, postprocess
from cnnjax.detection.roi_heads import RoIHeads, RoIPool, roi_loss
from cnnjax.detection.rpn import RPN, Anchors, Proposals, RPNOutput, TopN, propose, rpn_loss
from cnnjax.detection.stages import Setup, Stage, Training
from cnnjax.detection.targets import RoITargets, Truth, anchor_targets, check_background, roi_targets
from cnnjax.errors import UserError
from cnnjax.fields import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, setting


class Network(nn.Module):
    """Figure 2: a trunk, a region proposal network and RoI heads on the same levels."""

    trunk: nn.Module
    rpn: RPN
    roi_heads: RoIHeads

    def __call__(self, images: jax.Array, sizes: jax.Array,
                 select: Callable[[RPNOutput], Proposals | RoITargets] | None = None, *, train: bool = False,
                 ) -> tuple[RPNOutput, Any, Any]:
        """The RPN's output, the RoIs that `select` makes of it, and their scores and deltas, as of `RoIHeads`.

        Inference selects proposals, training samples of them. Without `select` the RoI heads are not run.
        """
        levels = self.trunk(images, sizes, train=train)
        proposed = self.rpn(levels, images.shape[1:3])
        if select is None:
            return proposed, None, None
        rois = select(proposed)
        return proposed, rois, self.roi_heads(levels, rois.boxes, train=train)


@dataclass(frozen=True)
class FasterRCNN:
    """Faster R-CNN; the defaults are the paper's, for VOC 2007."""

    num_classes: int
    backbone: Backbone = field(default_factory=Backbone)
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    canvases: Sizes = ((600, 1000), (1000, 600))
    method: str = setting("joint", ("joint", "alternating"), "approximate joint training, or four trainings in turn")
    pooling: str = setting("pool", ("pool", "align"), "RoIPool or RoIAlign")
    scales: Sequence[float] = setting((128.0, 256.0, 512.0), "(0, 8192]", "of anchors, pixels", length=0)
    ratios: Sequence[float] = setting((0.5, 1.0, 2.0), "[0.01, 100]", "height over width", length=0)
    anchor_style: str = setting("caffe", ("caffe", "centre"), "of `ops.base_anchors`")
    rpn_channels: int = setting(512, "[1, 65536]", "of the RPN's hidden layer")
    border: float = setting(0.0, NOT_NEGATIVE, "pixels that an anchor in training may cross the image's side by")
    positive: float = setting(0.7, SHARE, "IoU over which an anchor is an object")
    negative: float = setting(0.3, SHARE, "IoU under which it is background")
    rpn_batch: int = setting(256, COUNT, "anchors sampled of each image")
    rpn_fraction: float = setting(0.5, SHARE, "of them positive, at most")
    rpn_nms: float = setting(0.7, SHARE, "IoU over which the worse of two proposals is dropped")
    min_size: float = setting(16.0, "[0, 8192]", "pixels of a proposal's sides")
    proposals_train: TopN = field(default_factory=lambda: TopN(12_000, 2000))
    proposals_test: TopN = field(default_factory=lambda: TopN(6000, 300))
    rois: int = setting(128, COUNT, "sampled of each image")
    fraction: float = setting(0.25, SHARE, "of them foreground, at most")
    foreground: float = setting(0.5, SHARE, "IoU from which an RoI is an object")
    background: tuple[float, float] = setting((0.0, 0.5), SHARE, "IoU of an RoI that is background", length=2)
    box_beta: float = setting(1.0, POSITIVE, "where the heads' smooth L1 bends; the RPN's does at 1/9")
    test: Postprocess = field(default_factory=Postprocess)

    title: ClassVar[str] = "Faster R-CNN"
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.5
    pretrained: ClassVar[Mapping[str, str]] = {"trunk": "trunk", "roi_heads/head": "head"}

    def __post_init__(self) -> None:
        check_ious("faster_rcnn", self)

    @property
    def scored_in_training(self) -> bool:
        return self.method == "joint"

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(self.backbone.frozen)

    @property
    def anchors(self) -> Anchors:
        return Anchors(self.scales, self.ratios, self.anchor_style)

    @cached_property
    def network(self) -> Network:
        trunk, head, _ = backbones.create(self.backbone, self.dtype)
        return Network(trunk, RPN(self.anchors, self.rpn_channels, self.dtype),
                       RoIHeads(head, self.num_classes, RoIPool(self.backbone.pool, self.pooling)))

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector.preprocess`: the short side to 600 pixels, the long side to at most 1,000 (section 3.3)."""
        return fit_canvas(image, self.canvases)

    def init(self, key: jax.Array) -> Variables:
        """Random variables."""
        return init(self.network, key)

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """The losses of the RPN and of the RoI heads on its proposals (approximate joint training, section 3.2)."""
        return loss(self.network, self, variables, batch, key, axis_name)

    def stages(self, setup: Setup) -> list[Stage]:
        """One joint training, or the paper's four steps, as `method` says."""
        if self.method == "joint":
            return [("train", lambda done, folder: setup.whole(self, setup.batches(self.canvases).stream))]
        return alternating(self, setup)

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`; gives the proposals too."""
        return predict(self, variables, canvases, sizes)


def create(num_classes: int = 20, **values: Any) -> FasterRCNN:
    """The detector with other values in some of its fields."""
    return fields.replace(FasterRCNN(num_classes), values)


def init(network: Network, key: jax.Array) -> Variables:
    """Random variables of a network."""
    rois = Proposals(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1)), jnp.ones((1, 1), bool))
    return jax.jit(lambda key: network.init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64),
                                            lambda proposed: rois))(key)


def check_ious(name: str, settings: Any) -> None:
    """Raises UserError unless the intervals of IoU of the detector `name` are such."""
    check_background(name, settings.background)
    if settings.negative > settings.positive:
        raise UserError(f"config field '{name}.negative': found {settings.negative}, expected at most positive = "
                        f"{settings.positive}")


def loss(network: Network, settings: Any, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array,
         axis_name: str | None = None, *, rpn_only: bool = False) -> tuple[jax.Array, tuple[Any, Any]]:
    """The loss of a minibatch: of the RPN and, unless `rpn_only`, of the RoI heads on RoIs sampled of its proposals."""
    anchor_key, roi_key, dropout = jax.random.split(key, 3)
    truth, n = Truth.of(batch), len(batch["images"])

    def sample(output: RPNOutput) -> RoITargets:
        proposals = propose(output, batch["sizes"], settings.proposals_train, settings.rpn_nms, settings.min_size)
        return jax.vmap(partial(roi_targets, settings=settings))(
            example_keys(roi_key, n, axis_name), proposals.boxes, proposals.mask, truth)

    (output, rois, head), new = network.apply(variables, batch["images"], batch["sizes"], None if rpn_only else sample,
                                              train=True, rngs={"dropout": dropout}, mutable=["batch_stats"])
    targets = jax.vmap(partial(anchor_targets, settings=settings), (0, None, 0, 0))(
        example_keys(anchor_key, n, axis_name), output.anchors, batch["sizes"], truth)
    terms = rpn_loss(output, targets, axis_name)
    total, metrics = sum(terms.values(), jnp.float32(0)), dict(terms)
    if not rpn_only:
        scores, deltas = head
        terms = roi_loss(scores, deltas, rois, axis_name, settings.box_beta)
        total += sum(terms.values(), jnp.float32(0))
        metrics |= {**terms, "foreground": (rois.labels > 0).mean()}
    state = {name: tree for name, tree in variables.items() if name != "params"} | new
    return total, (state, metrics)


@partial(jax.jit, static_argnums=0)
def predict(detector: Any, variables: Variables, images: jax.Array, sizes: jax.Array) -> DetectorOutput:
    """The detections of a Faster R-CNN, with one level or several, and its proposals."""
    def select(output: RPNOutput) -> Proposals:
        return propose(output, sizes, detector.proposals_test, detector.rpn_nms, detector.min_size)
    _, rois, (scores, deltas) = detector.network.apply(variables, images, sizes, select)
    found = postprocess(rois.boxes, rois.mask, jax.nn.softmax(scores)[..., 1:], deltas, sizes, detector.test)
    return found._replace(proposals=rois.boxes)


# Alternating training

def alternating(detector: FasterRCNN, setup: Setup) -> list[Stage]:
    """Section 3.2: the RPN, the RoI heads on its proposals, then each again over the heads' trunk, which is frozen."""
    network, frozen = detector.network, tuple(detector.frozen)
    # a frozen trunk keeps the running statistics of its batch norm too
    shared = network.clone(trunk=network.trunk.clone(freeze_norm=True))

    def train(number: int, variables: Variables, objective: Any, stream: Any, frozen: tuple[str, ...]) -> Training:
        return Training(variables, lambda variables, batch, key, hyper, axis_name: objective(
            detector, variables, batch, key, axis_name), stream, frozen, f"{detector.title}, step {number} of 4",
            setup.seed + number)

    def train_rpn(number: int, network: Network, variables: Variables, frozen: tuple[str, ...]) -> Training:
        return train(number, variables, partial(loss, network, rpn_only=True), setup.batches(detector.canvases).stream,
                     frozen)

    def train_heads(number: int, network: Network, proposer: Variables, variables: Variables,
                    frozen: tuple[str, ...]) -> Training:
        batches = setup.batches(detector.canvases, all_proposals(detector, proposer, setup.images))
        fast = fast_rcnn.Network(network.trunk, network.roi_heads)
        return train(number, variables, partial(fast_rcnn.head_loss, fast), batches.stream, frozen)

    def third(done: Mapping[str, Variables]) -> Training:
        joined = {**done["step2"], "params": {**done["step2"]["params"], "rpn": done["step1"]["params"]["rpn"]}}
        return train_rpn(3, shared, joined, ("trunk", "roi_heads"))

    return [
        ("step1", lambda done, folder: train_rpn(1, network, setup.variables, (*frozen, "roi_heads"))),
        ("step2", lambda done, folder: train_heads(2, network, done["step1"], setup.variables, (*frozen, "rpn"))),
        ("step3", lambda done, folder: third(done)),
        ("step4", lambda done, folder: train_heads(4, shared, done["step3"], done["step3"], ("trunk", "rpn")))]


def all_proposals(detector: FasterRCNN, variables: Variables, images: DetectionSet) -> list[np.ndarray]:
    """The RPN's training proposals (P, 4) for each image, in its pixels."""
    @jax.jit
    def program(variables: Variables, canvases: jax.Array, sizes: jax.Array) -> Proposals:
        output, _, _ = detector.network.apply(variables, canvases, sizes)
        return propose(output, sizes, detector.proposals_train, detector.rpn_nms, detector.min_size)

    found = []
    for i in range(len(images)):
        image = images.read(i)
        canvas, size = detector.preprocess(image)
        proposed = jax.device_get(program(variables, canvas[None], size[None]))
        found.append(rescale_boxes(proposed.boxes[proposed.mask], size, image.shape[:2]))
    return found
