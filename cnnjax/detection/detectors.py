"""The four detectors by name: trained, kept in a folder, and read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import classification, interop, models
from cnnjax.config import nearest
from cnnjax.data.detection import DetectionData
from cnnjax.detection import backbones, common, fast_rcnn, faster_rcnn, rcnn, sppnet
from cnnjax.detection.common import Detector, Variables
from cnnjax.detection.proposals import Cache
from cnnjax.errors import UserError

TITLES = {"rcnn": "R-CNN", "sppnet": "SPP-net", "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN"}

LEAST_SCORES = {"rcnn": 0.0, "sppnet": 0.0, "fast_rcnn": 0.5, "faster_rcnn": 0.5}
"""From which a detection is worth a look: the plane of an SVM, or a probability."""


def check(kind: str) -> None:
    """Raises UserError for a kind that there is not."""
    if kind not in TITLES:
        raise UserError(f"detectors: found {kind!r}, expected one of {', '.join(TITLES)}{nearest(kind, TITLES)}")


def start(config: Any, data: DetectionData, folder: Path) -> Variables:
    """Variables of trunk and head to begin with: `backbone.weights`, or of a pre-training kept in `folder`."""
    backbone = backbones.create(config.backbone, config.dtype)
    classes = len(data.classes)
    if not config.backbone.weights:
        if not (folder / "detector.json").exists():
            common.save(folder, "backbone", data.classes, config, rcnn.pretrain(config, data, folder))
        return common.load(folder)[3]
    source = _classifier(config)
    variables = rcnn.initialise(rcnn.create(backbone, classes), config.rcnn.side, config.seed)
    parts = {"trunk/net": ""}
    if config.backbone.head == "stage" or "fc6" in source["params"]:    # else, over a ResNet, dense layers are new
        parts["head"] = ""
    return backbones.transplant(variables, source, parts)


def _classifier(config: Any) -> Variables:
    """The variables of a classifier of the backbone's name, from a PyTorch file or a workdir of `cnnjax train`."""
    path = backbones.weights_path(config.backbone)
    if path.is_file():
        _check_stride(config, interop.torch_fields(config.backbone.name))
        return interop.from_torch(config.backbone.name, path)
    trained = classification.load_run(path)
    _check_stride(config, trained.config.model)
    return dict(trained.variables)


def _check_stride(config: Any, trained: Any) -> None:
    """That bottlenecks stride where they did in training: the weights would fit all the same."""
    expected, found = trained.get("stride_in_3x3", False), config.backbone.stride_in_3x3
    if models.fields(config.backbone.name).get("bottleneck") and found != expected:
        raise UserError(f"backbone.stride_in_3x3: found {found}, but the {config.backbone.name} of backbone.weights "
                        f"was trained with {expected}; set it so")


def proposals_of(config: Any, data: DetectionData, search: Cache) -> list[np.ndarray]:
    """Selective search's proposals for each training image, made where they are not kept yet."""
    return [p.boxes for p in search.all(data.train.read(i) for i in range(len(data.train)))]


def train(kind: str, config: Any, data: DetectionData, folder: Path, begin: Variables, search: Cache) -> Variables:
    """A trained detector's variables; what its training leaves on disk lies in `folder`."""
    if kind == "faster_rcnn":
        return faster_rcnn.train(config, data, folder, begin)
    run: Callable[..., Variables] = {"rcnn": rcnn.train, "sppnet": sppnet.train, "fast_rcnn": fast_rcnn.train}[kind]
    return run(config, data, folder, begin, proposals_of(config, data, search))


def detector(kind: str, config: Any, num_classes: int, variables: Variables, search: Cache) -> Detector:
    """A detector on single images."""
    if kind == "faster_rcnn":
        return faster_rcnn.detector(config, num_classes, variables)
    make: Callable[..., Detector] = {"rcnn": rcnn.detector, "sppnet": sppnet.detector,
                                     "fast_rcnn": fast_rcnn.detector}[kind]
    return make(config, num_classes, jax.device_put(variables), search)
