"""Detectors by name, one file per paper."""

import importlib
from typing import Any

from cnnjax.config import nearest
from cnnjax.detection.detector import Detector
from cnnjax.errors import UserError

MODULES = {
    "rcnn": "rcnn",
    "sppnet": "sppnet",
    "fast_rcnn": "fast_rcnn",
    "faster_rcnn": "faster_rcnn",
    "faster_rcnn_fpn": "faster_rcnn_fpn",
    "yolo": "yolo",
    "fast_yolo": "yolo:create_fast",
    "ssd": "ssd",
    "retinanet": "retinanet",
    "fasterrcnn_resnet50_fpn": "faster_rcnn_fpn:create_torchvision",
    "retinanet_resnet50_fpn": "retinanet:create_torchvision",
    "ssd300_vgg16": "ssd:create_torchvision",
}
"""The file of each detector, in the order of the papers. It has `create(num_classes, **fields)`; "FILE:FUNCTION" names
another function, where one file has several detectors. Code outside of the library may add its own, with the module's
full name."""


def names() -> list[str]:
    """The names that `create` knows."""
    return list(MODULES)


def create(name: str, num_classes: int, **fields: Any) -> Detector:
    """A detector of so many classes, the background not counted; `fields` are those of its dataclass.

    Raises UserError for an unknown name or field.
    """
    if name not in MODULES:
        raise UserError(f"model.name: found {name!r}, expected one of {', '.join(MODULES)}{nearest(name, MODULES)}")
    file, _, function = MODULES[name].partition(":")
    module = importlib.import_module(file if "." in file else f"cnnjax.detection.{file}")
    return getattr(module, function or "create")(num_classes, **fields)
