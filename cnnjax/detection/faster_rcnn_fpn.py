"""Faster R-CNN with a feature pyramid: Lin et al. 2017, "Feature Pyramid Networks for Object Detection", section 4."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import numpy as np

from cnnjax import fields
from cnnjax.data.canvases import fit_canvas
from cnnjax.detection import faster_rcnn, fpn
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables
from cnnjax.detection.faster_rcnn import Network
from cnnjax.detection.fpn import PyramidAnchors, PyramidRoIAlign
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.resize import resize_and_pad
from cnnjax.detection.roi_heads import RoIHeads
from cnnjax.detection.rpn import RPN, TopN
from cnnjax.fields import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, setting

BACKBONE = Backbone("resnet50", hidden=(1024, 1024), dropout=0.0,
                    frozen=("trunk/net/conv1", "trunk/net/norm1", "trunk/net/stage1"))


@dataclass(frozen=True)
class FasterRCNNFPN:
    """Faster R-CNN over a pyramid; the defaults are the paper's, for COCO, with ResNet-50."""

    num_classes: int
    backbone: Backbone = field(default_factory=lambda: BACKBONE)
    backbone_stages: Sequence[str] = setting(("stage1", "stage2", "stage3", "stage4"), text="maps C2 to C5", length=0)
    channels: int = setting(256, "[1, 65536]", "of the pyramid and of the RPN's hidden layer")
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")
    canvases: Sizes = ((800, 1344), (1344, 800))
    sizes: Sequence[Sequence[float]] = setting(((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)), "",
                                               "pixels of the anchors of each level", length=0)
    ratios: Sequence[float] = setting((0.5, 1.0, 2.0), "[0.01, 100]", "height over width of anchors", length=0)
    border: float = setting(1e9, NOT_NEGATIVE, "pixels that an anchor in training may cross the image's side by")
    positive: float = setting(0.7, SHARE, "IoU over which an anchor is an object")
    negative: float = setting(0.3, SHARE, "IoU under which it is background")
    rpn_batch: int = setting(256, COUNT, "anchors sampled of each image")
    rpn_fraction: float = setting(0.5, SHARE, "of them positive, at most")
    rpn_nms: float = setting(0.7, SHARE, "IoU over which the worse of two proposals of a level is dropped")
    min_size: float = setting(1e-3, "[0, 8192]", "pixels of a proposal's sides")
    proposals_train: TopN = field(default_factory=lambda: TopN(2000, 2000))
    proposals_test: TopN = field(default_factory=lambda: TopN(1000, 1000))
    canonical_size: float = setting(224.0, "(0, 8192]", "pixels, square root of the area of an RoI that is pooled from "
                                    "P4 (eq. 1)")
    rois: int = setting(512, COUNT, "sampled of each image")
    fraction: float = setting(0.25, SHARE, "of them foreground, at most")
    foreground: float = setting(0.5, SHARE, "IoU from which an RoI is an object")
    background: tuple[float, float] = setting((0.0, 0.5), SHARE, "IoU of an RoI that is background", length=2)
    box_beta: float = setting(1.0, POSITIVE, "where the heads' smooth L1 bends, 1/9 in torchvision; the RPN's does at "
                              "1/9")
    background_box: bool = setting(False, text="whether a box of the background is predicted too, as in torchvision")
    test: Postprocess = field(default_factory=lambda: Postprocess(nms=0.5))
    resize: Sequence[int] = setting((), COUNT, "torchvision's preprocessing to (short side, long side), not canvases")

    title: ClassVar[str] = "Faster R-CNN with FPN"
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.5
    pretrained: ClassVar[Mapping[str, str]] = {"trunk/net": "trunk/net"}

    def __post_init__(self) -> None:
        faster_rcnn.check_ious("faster_rcnn_fpn", self)

    @property
    def frozen(self) -> Sequence[str]:
        return self.backbone.frozen

    @cached_property
    def network(self) -> Network:
        pyramid, head = fpn.create(self.backbone, self.backbone_stages, self.channels, "pool", self.dtype)
        return Network(pyramid, RPN(PyramidAnchors(self.sizes, self.ratios), self.channels, self.dtype),
                       RoIHeads(head, self.num_classes, PyramidRoIAlign(self.backbone.pool, self.canonical_size),
                                self.background_box))

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector.preprocess`: on the canvas that suits the image, or as torchvision resizes."""
        return resize_and_pad(image, *self.resize) if self.resize else fit_canvas(image, self.canvases)

    def init(self, key: jax.Array) -> Variables:
        """Random variables."""
        return faster_rcnn.init(self.network, key)

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, hyper: Any,
             axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """The losses of the RPN and of the RoI heads on its proposals, as Faster R-CNN's joint training."""
        return faster_rcnn.loss(self.network, self, variables, batch, key, axis_name)

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """As `Detector.predict`; gives the proposals too."""
        return faster_rcnn.predict(self, variables, canvases, sizes)


def create(num_classes: int = 80, **values: Any) -> FasterRCNNFPN:
    """The detector with other values in some of its fields."""
    return fields.replace(FasterRCNNFPN(num_classes), values)


def create_torchvision(num_classes: int = 90, **values: Any) -> FasterRCNNFPN:
    """torchvision's `fasterrcnn_resnet50_fpn`, by default for its weights of COCO: 90 classes, which torchvision calls
    91 with the background."""
    default = FasterRCNNFPN(num_classes, backbone=replace(BACKBONE, stride_in_3x3=True), background_box=True,
                            box_beta=1 / 9, test=Postprocess(nms=0.5, min_size=1e-2), resize=(800, 1333))
    return fields.replace(default, values)
