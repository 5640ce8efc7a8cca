"""Configs of a ladder and of one detector: their fields, and their checks before anything is read or trained."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import detection, fields, networks
from cnnjax.data import detection as datasets
from cnnjax.data.box_transforms import chain
from cnnjax.data.synthetic_digits import SIDES
from cnnjax.detection import backbones, rcnn, saved
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.detection.rcnn import RCNN
from cnnjax.errors import UserError, first_line
from cnnjax.fields import Field, Fields
from cnnjax.training import loop
from cnnjax.training import state as states

FIELDS: Fields = {
    "seed": loop.FIELDS["seed"],
    "dtype": Field("float32", "of activations", ("float32", "bfloat16")),
    "deterministic": Field(False, "the same bits on a GPU too, where sums are faster in any order"),
    "sync_batch_norm": Field(False, "batch statistics over all devices; else of each device"),
    "detectors": Field(("rcnn", "sppnet", "fast_rcnn", "faster_rcnn"), "those to train and compare"),
    "data": datasets.FIELDS,
    "backbone": fields.of_dataclass(Backbone()),
    "proposals": fields.of_dataclass(SelectiveSearch()),
    "test": fields.of_dataclass(Postprocess()),
    "eleven_points": Field(True, "VOC 2007's average precision; else the area under the curve"),
}
"""The fields of a ladder's config beside the groups of its detectors and of their training."""

TRAINING: Fields = {name: field for name, field in loop.FIELDS.items() if name != "seed"}

TRANSFORMS = Field((), "augmentation of images and boxes: `cnnjax.data.box_transforms`")

SCATTER = {"data.train_images": "[1, 1000000]", "data.test_images": "[1, 1000000]",
           "data.size": f"[{SIDES[1]}, 8192]"}
"""Of the embedded set, whose digits have those sides."""

SHARED = ("dtype", "canvases", "backbone", "proposals", "test")
"""The fields of detectors that all of a ladder may share; its config has `canvases` in the group `data`."""

BESIDE = ("training", "transforms")
"""What the group of a detector has beside its fields."""


def detector_of(config: ConfigDict, name: str, num_classes: int) -> Any:
    """A detector of a ladder: its fields are those of its own group, and of the shared groups what it has no own of.

    Raises UserError naming the field, what was found and what was expected.
    """
    default: Any = detection.create(name, num_classes)
    known = {field.name for field in dataclasses.fields(default)}
    own = {field: value for field, value in config.get(name, {}).items() if field not in BESIDE}
    shared = {field: config.data.canvases if field == "canvases" else config[field] for field in SHARED
              if field in known and field not in own}
    fields.check(default, own, f"{name}.")
    fields.check(default, shared)
    return detection.create(name, num_classes, **shared, **own)


def declared(config: ConfigDict) -> Fields:
    """All declared fields of a ladder's config. Of the groups SHARED a detector's group has those that it sets itself.
    """
    groups = {}
    for name in detection.names():
        if name in config:
            own = fields.of_dataclass(detection.create(name, 1))
            groups[name] = {field: of for field, of in own.items() if field != "num_classes" and
                            (field not in SHARED or field in config[name])}
            groups[name]["training"] = TRAINING
            if "transforms" in config[name]:
                groups[name]["transforms"] = TRANSFORMS
    return {**FIELDS, "pretraining": TRAINING, **groups}


def check(config: ConfigDict) -> None:
    """Refuses a ladder's config that cannot be run. Raises UserError naming the field, what was found and what was
    expected."""
    fields.check_values(config, declared(config))
    for name in detection.names():
        if name in config:                  # those of other detectors are checked too, as any field is
            detector_of(config, name, 1)
    for name in config.detectors:
        detector, group = detector_of(config, name, 1), config[name]
        _check_training(group.training, detector, config.data, f"{name}.training.")
        _check_transforms(group.get("transforms", ()), detector, f"{name}.transforms")
    _check_data(config)
    _check_pretraining(config, detector_of(config, "rcnn", 1))


# One detector

GENERAL = ("seed", "dtype", "deterministic", "sync_batch_norm", "data", "eleven_points")
"""The fields of a ladder that a config of one detector has too."""

WINDOWS = ("side", "context", "fraction", "foreground")
"""The fields of R-CNN that say on which windows a backbone is pre-trained."""


def alone(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one detector of a ladder: its fields in the group `model`, those of its training at the top.

    A detector begins with the pre-training of its backbone where that is of the ladder's network, one of another
    network with its weights or from scratch; with `init.weights` any begins with those.
    """
    detector = detector_of(config, name, 1)
    own = ConfigDict({field: config[field] for field in GENERAL})
    own.init = fields.defaults(networks.INIT)
    own.model = {"name": name, **{field: value for field, value in saved.fields_of(detector).items()
                                  if field not in ("dtype", "canvases")}}
    own.transforms = config[name].get("transforms", ())
    theirs = detector_of(config, "rcnn", 1).backbone
    if getattr(detector, "pretrained", {}) and (detector.backbone == theirs or (
            detector.backbone.name == theirs.name and not detector.backbone.weights)):
        own.pretraining = config.pretraining
        own.windows = {field: config.rcnn[field] for field in WINDOWS}
    own.update(config[name].training)
    return own.copy_and_resolve_references()


def create(config: ConfigDict, num_classes: int) -> Any:
    """The detector of a config of one."""
    default: Any = detection.create(config.model.name, num_classes)
    known = {field.name for field in dataclasses.fields(default)}
    shared = {"dtype": config.dtype, "canvases": config.data.canvases}
    return detection.create(config.model.name, num_classes, **{k: v for k, v in shared.items() if k in known},
                            **{field: value for field, value in config.model.items() if field != "name"})


def window_classifier(config: ConfigDict, num_classes: int) -> RCNN:
    """The network that is pre-trained for the backbone of a config of one detector."""
    return rcnn.create(num_classes, backbone=config.model.backbone, dtype=config.dtype, **config.windows)


def declared_alone(config: ConfigDict) -> Fields:
    """All declared fields of a config of one detector. Raises UserError for the name of none."""
    detector: Any = detection.create(config.model.name, 1)
    model = {field: of for field, of in fields.of_dataclass(detector).items()
             if field not in ("num_classes", "dtype", "canvases")}
    windows = fields.of_dataclass(RCNN(1))
    pretraining = {"pretraining": TRAINING, "windows": {field: windows[field] for field in WINDOWS}}
    return {**{name: FIELDS[name] for name in GENERAL}, **TRAINING, "init": networks.INIT,
            "model": {"name": Field(config.model.name, "a detector of `cnnjax.detection`"), **model},
            "transforms": TRANSFORMS, **(pretraining if "windows" in config else {})}


def check_alone(config: ConfigDict) -> None:
    """Refuses a config of one detector that cannot be run. Raises UserError as `check` does."""
    fields.check_values(config, declared_alone(config))
    detector = create(config, 1)
    _check_training(config, detector, config.data)
    _check_transforms(config.transforms, detector, "transforms")
    _check_data(config)
    _check_init(config, detector)
    if "windows" in config:
        _check_pretraining(config, window_classifier(config, 1), "model.")


def _check_init(config: ConfigDict, detector: Any) -> None:
    """That there is something at `init.weights`, and that the detector has what `init.frozen` names; it is traced, not
    compiled."""
    weights, backbone = config.init.weights, getattr(detector, "backbone", None)
    if weights and not configs.user_path(weights).exists():
        raise UserError(f"config field 'init.weights': there is no file or workdir {configs.user_path(weights)}")
    if weights and backbone is not None and backbone.weights:
        raise UserError("config fields 'init.weights' and 'model.backbone.weights' are both set: the first has the "
                        "backbone too; leave one of them out")
    if config.init.frozen:
        try:
            states.split(jax.eval_shape(detector.init, jax.random.key(0))["params"], config.init.frozen)
        except UserError as error:
            raise UserError(f"config field 'init.frozen': {error}") from None


# Checks that both have

def _check_training(training: ConfigDict, detector: Any, data: ConfigDict, prefix: str = "") -> None:
    """That it can be run, and evaluated before its end if that is asked for; `detector` is None of a pre-training."""
    validated = bool(data.validation or data.validation_split)
    loop.check(training, prefix)
    if training.optimizer.label_smoothing:
        raise UserError(f"config field '{prefix}optimizer.label_smoothing': found "
                        f"{training.optimizer.label_smoothing}; no detector smooths its labels, set it to 0")
    scored = detector is not None and getattr(detector, "scored_in_training", True)
    if validated and scored:
        return
    why = "there are no validation images: set data.validation" if scored else "what is trained is no detector yet"
    if training.eval_every < training.steps:
        raise UserError(f"config field '{prefix}eval_every': found {training.eval_every}, under steps = "
                        f"{training.steps}, but {why}")
    if training.patience:
        raise UserError(f"config field '{prefix}patience': found {training.patience}, but {why}")


def _check_data(config: ConfigDict) -> None:
    configs.require(config, SCATTER if config.data.source == "scatter" else {})
    if any(not isinstance(name, str) for name in config.data.classes):
        raise UserError(f"config field 'data.classes': found {config.data.classes}, expected names")
    _check_canvases(config.data.canvases)


def _check_transforms(transforms: Any, detector: Any, name: str) -> None:
    """That they can be made, for a detector whose images can be augmented: nothing that it keeps must follow them."""
    if transforms and (detector.needs_proposals or hasattr(detector, "stages")):
        raise UserError(f"config field {name!r}: found {len(transforms)}, but only detectors of one stage without "
                        "proposals take transforms; set it to ()")
    chain(transforms, name)


def _check_canvases(canvases: Any) -> None:
    for canvas in canvases:
        if not (isinstance(canvas, tuple) and len(canvas) == 2 and
                all(type(side) is int and 16 <= side <= 8192 for side in canvas)):
            raise UserError(f"config field 'data.canvases': found {canvas!r}, expected (height, width) in pixels, 16 "
                            "to 8192")
    if not canvases:
        raise UserError("config field 'data.canvases': found (), expected one or more of (height, width)")


def _check_pretraining(config: ConfigDict, classifier: RCNN, prefix: str = "") -> None:
    """That a backbone can be pre-trained or its weights are there, and that it has what is to be frozen; its network is
    traced, not compiled."""
    _check_training(config.pretraining, None, config.data, "pretraining.")
    backbone = classifier.backbone
    if backbone.weights:
        backbones.weights_path(backbone)
    try:
        variables = jax.eval_shape(lambda: classifier.init(jax.random.key(0)))
    except UserError:
        raise
    except Exception as error:      # whatever a layer raises for sizes that it cannot have
        raise UserError(f"config field '{prefix}backbone': {backbone.name} as set cannot be made "
                        f"({type(error).__name__}: {first_line(error)[:200]})") from None
    try:
        states.split(variables["params"], backbone.frozen)
    except UserError as error:
        raise UserError(f"config field '{prefix}backbone.frozen': {error}") from None
