"""Checks of a ladder's config: every field is checked before anything is read or trained."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import detection, fields
from cnnjax.data import detection as datasets
from cnnjax.data.box_transforms import chain
from cnnjax.data.scatter import SIDES
from cnnjax.detection import backbones
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.errors import UserError, first_line
from cnnjax.fields import Field, Fields
from cnnjax.training import loop
from cnnjax.training import state as states

FIELDS: Fields = {
    "seed": loop.FIELDS["seed"],
    "dtype": Field("float32", "of activations", ("float32", "bfloat16")),
    "deterministic": Field(False, "the same bits on a GPU too, where sums are faster in any order"),
    "detectors": Field(("rcnn", "sppnet", "fast_rcnn", "faster_rcnn"), "those to train and compare"),
    "data": datasets.FIELDS,
    "backbone": fields.of_dataclass(Backbone()),
    "proposals": fields.of_dataclass(SelectiveSearch()),
    "test": fields.of_dataclass(Postprocess()),
    "eleven_points": Field(True, "VOC 2007's average precision; else the area under the curve"),
}
"""The fields of a ladder's config beside the groups of its detectors and of their training."""

TRAINING: Fields = {name: field for name, field in loop.FIELDS.items() if name != "seed"}

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
    """All declared fields of a ladder's config."""
    groups = {}
    for name in detection.names():
        if name in config:
            own = fields.of_dataclass(detection.create(name, 1))
            groups[name] = {field: of for field, of in own.items() if field not in ("num_classes", "canvases")}
            groups[name]["training"] = TRAINING
            if "transforms" in config[name]:
                groups[name]["transforms"] = Field((), "augmentation of images and boxes: `cnnjax.data.box_transforms`")
    return {**FIELDS, "pretraining": TRAINING, **groups}


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field, what was found and what was expected."""
    fields.check_values(config, declared(config))
    configs.require(config, SCATTER if config.data.source == "scatter" else {})
    if any(not isinstance(name, str) for name in config.data.classes):
        raise UserError(f"config field 'data.classes': found {config.data.classes}, expected names")
    _check_canvases(config.data.canvases)
    for name in detection.names():
        if name in config:                  # those of other detectors are checked too, as any field is
            detector_of(config, name, 1)
    for name in config.detectors:
        _check_transforms(name, config[name].get("transforms", ()))
    for phase in ("pretraining", *(f"{name}.training" for name in config.detectors)):
        group, _, name = phase.partition(".")
        training = config[group][name] if name else config[group]
        loop.check(training, f"{phase}.")
        _check_evaluation(config, phase, training)
        if training.optimizer.label_smoothing:
            raise UserError(f"config field '{phase}.optimizer.label_smoothing': found "
                            f"{training.optimizer.label_smoothing}; no detector smooths its labels, set it to 0")
    _check_backbone(config)


def _check_evaluation(config: ConfigDict, phase: str, training: ConfigDict) -> None:
    """That evaluations before the end, where they are asked for, can be."""
    if training.eval_every >= training.steps:
        return
    name = phase.partition(".")[0]
    scored = phase != "pretraining" and getattr(detector_of(config, name, 1), "scored_in_training", True)
    if not config.data.validation or not scored:
        why = "there are no validation images: set data.validation" if scored else "what is trained is no detector yet"
        raise UserError(f"config field '{phase}.eval_every': found {training.eval_every}, under steps = "
                        f"{training.steps}, but {why}")


def _check_transforms(name: str, transforms: Any) -> None:
    """That they can be made, for a detector whose images can be augmented: nothing that it keeps must follow them."""
    detector = detection.create(name, 1)
    if transforms and (detector.needs_proposals or hasattr(detector, "stages")):
        raise UserError(f"config field '{name}.transforms': found {len(transforms)}, but only detectors of one stage "
                        "without proposals take transforms; set it to ()")
    chain(transforms, f"{name}.transforms")


def _check_canvases(canvases: Any) -> None:
    for canvas in canvases:
        if not (isinstance(canvas, tuple) and len(canvas) == 2 and
                all(type(side) is int and 16 <= side <= 8192 for side in canvas)):
            raise UserError(f"config field 'data.canvases': found {canvas!r}, expected (height, width) in pixels, 16 "
                            "to 8192")
    if not canvases:
        raise UserError("config field 'data.canvases': found (), expected one or more of (height, width)")


def _check_backbone(config: ConfigDict) -> None:
    """That trunk and head can be made, and have what is to be frozen; they are traced, not compiled."""
    if config.backbone.weights:
        backbones.weights_path(config.backbone)
    try:
        variables = jax.eval_shape(lambda: detector_of(config, "rcnn", 1).init(jax.random.key(0)))
    except UserError:
        raise
    except Exception as error:      # whatever a layer raises for sizes that it cannot have
        raise UserError(f"config field 'backbone': {config.backbone.name} as set cannot be made "
                        f"({type(error).__name__}: {first_line(error)[:200]})") from None
    try:
        states.split(variables["params"], config.backbone.frozen)
    except UserError as error:
        raise UserError(f"config field 'backbone.frozen': {error}") from None
