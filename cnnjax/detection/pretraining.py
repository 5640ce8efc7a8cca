"""Initial weights of a detector: another detector's, a classifier's, or those of a pre-trained backbone."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax import class_names, detection, interop, models, networks
from cnnjax import config as configs
from cnnjax.data.detection_sets import DetectionSet
from cnnjax.detection import backbones, saved, stages
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.rcnn import RCNN, random_windows
from cnnjax.errors import UserError


def init_variables(detector: Detector, seed: int, source: Variables | None) -> Variables:
    """Random variables of the detector, with those of `source`, a backbone's, in its `pretrained` parts."""
    parts = {} if source is None else getattr(detector, "pretrained", {})
    return backbones.transplant(detector.init(jax.random.key(seed)), source or {}, parts)


MEANING = ("backbone.name", "backbone.stride_in_3x3", "backbone.norm_epsilon", "backbone.mean", "backbone.std", "extra",
           "pooling", "mean", "std")
"""Fields in which a detector must be as its weights were trained: with others the shapes would fit all the same."""


def from_detector(detector: Any, name: str, weights: str, classes: Sequence[str], seed: int,
                  ) -> tuple[Variables, list[str]]:
    """Variables of the detector `name` for `classes` that begin from those of a workdir of `cnnjax train` or a cell of
    a ladder, or of a file of torchvision; and the paths of what is made new, the layers that know the classes where
    these are others.

    Of a file that has as many classes as torchvision's of COCO, the classes are COCO's. Raises UserError for weights of
    another detector, and for a field of MEANING that they were not trained with.
    """
    path = configs.user_path(weights)
    known: tuple[str, ...] | None
    of: Any
    if path.is_dir():
        of, known, variables = saved.load(path)
        if type(of) is not type(detector):
            raise UserError(f"config field 'init.weights': {weights} is of {of.title}, not of {detector.title}")
    else:
        own = saved.fields_of(detector)
        if "backbone" in own:
            del own["backbone"]["norm_epsilon"]         # the file tells
        of, variables = interop.detector_from_torch(name, path, **own)
        known = class_names.coco_of(of.num_classes)
    ours, theirs = (configs.flatten(saved.fields_of(d)) for d in (detector, of))
    for field in MEANING:
        if ours.get(field) != theirs.get(field):
            raise UserError(f"config field 'model.{field}': found {ours.get(field)!r}, but the weights of {weights} "
                            f"were trained with {theirs.get(field)!r}; set it so")
    found = networks.Pretrained(variables, known, None)
    begin, new = networks.matching(partial(_variables, detector, name, seed), classes, found, weights)
    return dict(networks.graft(_variables(detector, name, seed, len(classes)), begin)), new


def _variables(detector: Any, name: str, seed: int, num_classes: int) -> Mapping[str, Any]:
    """Random variables of the same detector for so many classes."""
    return detection.create(name, num_classes, **saved.fields_of(detector)).init(jax.random.key(seed))


def trunk(backbone: Backbone) -> Variables | None:
    """The trunk of the classifier in `backbone.weights`; None where there are none, and all is trained from scratch."""
    if not backbone.weights:
        return None
    return {name: {"trunk": {"net": tree}} for name, tree in _classifier(backbone).items()}


def backbone(rcnn: RCNN, training: ConfigDict, images: DetectionSet, seed: int, flip: bool, shared: Path) -> Variables:
    """Variables of "trunk" and "head": of the classifier in `backbone.weights`, or else of a pre-training.

    The pre-training stands where the papers have ImageNet: R-CNN's network learns to classify windows cut from the
    training images. It is kept in a folder of its own in `shared` and serves all detectors with that backbone.
    """
    folder = shared / f"backbone-{rcnn.backbone.name}-{zlib.crc32(repr(rcnn).encode()):08x}"
    source = _classifier(rcnn.backbone) if rcnn.backbone.weights else None      # weights that do not fit: at once
    variables = rcnn.init(jax.random.key(seed))
    if source is not None:
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
