"""What a detector is trained from: a classifier's weights, or a backbone trained on windows of the training images."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax import interop, models, networks
from cnnjax.data.detection import DetectionSet
from cnnjax.detection import backbones, saved, stages
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.rcnn import RCNN, random_windows
from cnnjax.errors import UserError


def init_variables(detector: Detector, seed: int, source: Variables | None) -> Variables:
    """Random variables of the detector, with those of `source`, a backbone's, in its `pretrained` parts."""
    parts = {} if source is None else getattr(detector, "pretrained", {})
    return backbones.transplant(detector.init(jax.random.key(seed)), source or {}, parts)


def trunk(backbone: Backbone) -> Variables | None:
    """The trunk of the classifier in `backbone.weights`; None where there are none, and all is trained from scratch."""
    if not backbone.weights:
        return None
    return {name: {"trunk": {"net": tree}} for name, tree in _classifier(backbone).items()}


def backbone(rcnn: RCNN, training: ConfigDict, images: DetectionSet, seed: int, flip: bool, folder: Path) -> Variables:
    """Variables of "trunk" and "head": of the classifier in `backbone.weights`, or else of a pre-training.

    The pre-training stands where the papers have ImageNet: R-CNN's network learns to classify windows cut from the
    training images. It is kept in `folder` and serves all detectors with that backbone.
    """
    variables = rcnn.init(jax.random.key(seed))
    if rcnn.backbone.weights:
        source = _classifier(rcnn.backbone)
        parts = {"trunk/net": ""}
        if rcnn.backbone.head == "stage" or "fc6" in source["params"]:  # else, over a ResNet, dense layers are new
            parts["head"] = ""
        return backbones.transplant(variables, source, parts)
    file = folder / "variables.npz"
    if file.exists():
        return saved.read_arrays(file)
    setup = stages.Setup(images, training, seed, flip, 1.0, variables, list)
    trained = rcnn.finetuning(setup, random_windows(images, seed), "pre-training")
    variables = stages.fit(trained, training, folder)
    saved.write_arrays(file, variables)
    return variables


def _classifier(backbone: Backbone) -> Variables:
    """The variables of a classifier of the backbone's name, from a PyTorch file or a workdir of `cnnjax train`."""
    path = backbones.weights_path(backbone)
    if path.is_file():
        _check_stride(backbone, interop.torch_fields(backbone.name))
        return interop.from_torch(backbone.name, path)
    trained = networks.load_run(path)
    _check_stride(backbone, trained.config.model)
    return dict(trained.variables)


def _check_stride(backbone: Backbone, trained: Any) -> None:
    """That bottlenecks stride where they did in training: the weights would fit all the same."""
    expected, found = trained.get("stride_in_3x3", False), backbone.stride_in_3x3
    if models.fields(backbone.name).get("bottleneck") and found != expected:
        raise UserError(f"backbone.stride_in_3x3: found {found}, but the {backbone.name} of backbone.weights was "
                        f"trained with {expected}; set it so")
