"""The four detectors by name: trained, kept in a folder, and read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import classification, interop
from cnnjax import data as datasets
from cnnjax.config import nearest
from cnnjax.data.detection import DetectionData
from cnnjax.detection import backbones, common, fast_rcnn, faster_rcnn, rcnn, sppnet
from cnnjax.detection.common import Detector, Variables
from cnnjax.detection.proposals import Cache
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs

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
    variables = rcnn.initialise(rcnn.create(backbone, classes), config.rcnn.side, config.seed)
    return backbones.transplant(variables, _classifier(config), {"trunk/net": "", "head": ""})


def _classifier(config: Any) -> Variables:
    """The variables of a classifier of the backbone's name, from a PyTorch file or a workdir of `cnnjax train`."""
    path = Path(config.backbone.weights)
    if not path.exists():
        raise UserError(f"backbone.weights: {path} does not exist")
    if path.is_file():
        return interop.from_torch(config.backbone.name, path)
    trained = workdirs.read_config(path)
    state = classification.restore(path, trained, datasets.load(trained.data, trained.seed))[1]
    return {"params": state.params, **state.model_state}


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
