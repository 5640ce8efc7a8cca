"""Detectors by name, one file per paper."""

import importlib
import warnings
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


def create(name: str, num_classes: int | None = None, **fields: Any) -> Detector:
    """A detector of so many classes; `fields` are those of its dataclass.

    The background is never counted: torchvision's 91 classes of COCO are 90 here. None: as many as were published,
    VOC's 20 or COCO's 80; of torchvision's networks those that its weights of COCO are for. Warns where 91 are asked
    of a network whose weights have 90. Raises UserError for an unknown name or field, and for a number under 1.
    """
    if name not in MODULES:
        raise UserError(f"model.name: found {name!r}, expected one of {', '.join(MODULES)}{nearest(name, MODULES)}")
    file, _, function = MODULES[name].partition(":")
    module = importlib.import_module(file if "." in file else f"cnnjax.detection.{file}")
    make = getattr(module, function or "create")
    if num_classes is None:
        return make(**fields)
    if num_classes < 1:
        raise UserError(f"num_classes: found {num_classes}, expected at least 1; the background is not counted")
    if num_classes == 91 and name in ("fasterrcnn_resnet50_fpn", "ssd300_vgg16"):
        warnings.warn(f"{name} for 91 classes and the background: torchvision's weights of COCO are for 90, which it "
                      "calls 91 with the background", stacklevel=2)
    return make(num_classes, **fields)
