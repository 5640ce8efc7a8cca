"""Variables of torchvision's detectors from their state dicts, and back."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cnnjax import detection
from cnnjax.config import nearest
from cnnjax.detection import ssd
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.ssd import SSD
from cnnjax.errors import UserError
from cnnjax.interop.files import read_state, state_in
from cnnjax.interop.weights import COUNTERS, LEAVES, fill, layout_to_torch, plain_keys

DETECTORS = ("faster_rcnn_fpn", "fasterrcnn_resnet50_fpn", "retinanet", "retinanet_resnet50_fpn", "ssd",
             "ssd300_vgg16")
"""The detectors whose weights have a form in torchvision."""

_LAYERS = {
    r"trunk/fpn/lateral(\d)": r"backbone.fpn.inner_blocks.\1.0",
    r"trunk/fpn/output(\d)": r"backbone.fpn.layer_blocks.\1.0",
    r"trunk/fpn/(p\d)": r"backbone.fpn.extra_blocks.\1",
    r"trunk/net/conv1": "backbone.body.conv1",
    r"trunk/net/norm1": "backbone.body.bn1",
    r"trunk/net/stage(\d)_block(\d+)/conv_shortcut": r"backbone.body.layer\1.\2-.downsample.0",
    r"trunk/net/stage(\d)_block(\d+)/norm_shortcut": r"backbone.body.layer\1.\2-.downsample.1",
    r"trunk/net/stage(\d)_block(\d+)/conv(\d)": r"backbone.body.layer\1.\2-.conv\3",
    r"trunk/net/stage(\d)_block(\d+)/norm(\d)": r"backbone.body.layer\1.\2-.bn\3",
    r"class_head/conv(\d)": r"head.classification_head.conv.\1-.0",
    r"class_head/output": "head.classification_head.cls_logits",
    r"box_head/conv(\d)": r"head.regression_head.conv.\1-.0",
    r"box_head/output": "head.regression_head.bbox_reg",
    r"rpn/conv": "rpn.head.conv.0.0",
    r"rpn/objectness": "rpn.head.cls_logits",
    r"rpn/deltas": "rpn.head.bbox_pred",
    r"roi_heads/head/(fc\d)": r"roi_heads.box_head.\1",
    r"roi_heads/classes": "roi_heads.box_predictor.cls_score",
    r"roi_heads/boxes": "roi_heads.box_predictor.bbox_pred",
}
"""torchvision's names of the layers of detectors with a pyramid; a number before "-" is less by one there."""

_OLD_KEYS = {
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)": r"\1.0.\2",
    r"(rpn\.head\.conv)\.(weight|bias)": r"\1.0.0.\2",
    **{rf"(_head\.conv)\.{2 * i}\.(weight|bias)": rf"\1.{i}.0.\2" for i in range(4)},
}
"""Keys of torchvision before 0.13, as its weights of COCO have them, and what they are since."""


def detector_from_torch(name: str, source: Mapping[str, Any] | str | Path, **fields: Any) -> tuple[Detector, Variables]:
    """The detector `cnnjax.detection.create(name, num_classes, **fields)` and its variables, from a torchvision state
    dict or its file.

    Keys may be those of torchvision before 0.13 or since, and begin with one prefix, as wrapped networks' do. `source`
    is as for `network_from_torch`. The number of classes is read from the weights, and so is the epsilon of batch norm
    unless `backbone.norm_epsilon` is given: torchvision's weights of COCO, which hold no `num_batches_tracked`, were
    trained over frozen batch norm without one; others have 1e-5.

    Variables are `{"params": ..., "batch_stats": ...}` of float32 arrays. Raises UserError for a detector that
    torchvision has not, and one that names missing, extra and misshapen keys.
    """
    _check(name)
    where = f"{source}: " if isinstance(source, str | Path) else ""
    read = read_state(source) if isinstance(source, str | Path) else state_in(source, name)
    if hasattr(detection.create(name, 1), "backbone"):
        live = any(key.endswith(COUNTERS[0]) for key in read)
        fields["backbone"] = {"norm_epsilon": 1e-5 if live else 0.0} | dict(fields.get("backbone", {}))
    smallest = detection.create(name, 1, **fields)
    landmark = "backbone.features.0.weight" if isinstance(smallest, SSD) else "backbone.body.conv1.weight"
    state = plain_keys(read, landmark, _OLD_KEYS, where)
    detector = detection.create(name, _num_classes(state, smallest), **fields)
    template = flatten_dict(jax.eval_shape(detector.init, jax.random.key(0)))
    return detector, fill(template, state, partial(_key, detector), lambda path: _pooled_channels(path, template),
                          f"{where}these are not the weights of {name}")


def detector_to_torch(name: str, variables: Variables, **fields: Any) -> dict[str, np.ndarray]:
    """The state dict for torchvision, as numpy arrays by key, of a detector's variables; keys as since 0.13.

    With `backbone={"norm_epsilon": 0}` it has no `num_batches_tracked`, as that of a frozen batch norm. Raises
    UserError for a detector that torchvision has not.
    """
    _check(name)
    return detector_state(detection.create(name, 1, **fields), variables)


def detector_state(detector: Detector, variables: Variables) -> dict[str, np.ndarray]:
    """`detector_to_torch` of a detector at hand."""
    leaves, state = flatten_dict(dict(variables)), {}
    epsilon = getattr(getattr(detector, "backbone", None), "norm_epsilon", 1e-5)
    for path, leaf in leaves.items():
        key = _key(detector, path)
        state[key] = np.asarray(layout_to_torch(np.asarray(leaf), _pooled_channels(path, leaves)))
        if path[-1] == "var" and epsilon:
            state[key.replace("running_var", COUNTERS[0])] = np.zeros((), np.int64)
    return state


def _check(name: str) -> None:
    """Raises UserError for a detector that torchvision has not."""
    if name not in DETECTORS:
        raise UserError(f"{name} has no PyTorch weights to exchange; known are {', '.join(DETECTORS)}"
                        f"{nearest(name, DETECTORS)}")


def _key(detector: Detector, path: tuple[str, ...]) -> str:
    """torchvision's key of a leaf, such as ("params", "rpn", "conv", "kernel") to "rpn.head.conv.0.0.weight"."""
    layer = "/".join(path[1:-1])
    if isinstance(detector, SSD):
        keys = ssd.torch_keys(detector)
        if layer in keys or path[-1] in keys:
            return f"{keys[layer]}.{LEAVES[path[-1]]}" if layer else keys[path[-1]]
    for pattern, name in _LAYERS.items():
        match = re.fullmatch(pattern, layer)
        if match:
            name = re.sub(r"(\d+)-", lambda number: str(int(number[1]) - 1), match.expand(name))
            return f"{name}.{LEAVES[path[-1]]}"
    raise UserError(f"{layer}: torchvision's detectors have no such layer")


def _pooled_channels(path: tuple[str, ...], leaves: Mapping[tuple[str, ...], Any]) -> int | None:
    """Channels of the pooled RoIs that the first fully connected layer flattens; None for other leaves."""
    pooled = path[-3:] == ("head", "fc6", "kernel")
    return leaves["params", "trunk", "fpn", "output0", "bias"].shape[0] if pooled else None


def _num_classes(state: Mapping[str, np.ndarray], detector: Any) -> int:
    """The number of classes that the weights are for, the background not counted; 1 where they have no such layer."""
    if "roi_heads.box_predictor.cls_score.bias" in state:
        return state["roi_heads.box_predictor.cls_score.bias"].size - 1
    if isinstance(detector, SSD):
        logits = state.get("head.classification_head.module_list.0.bias")
        return 1 if logits is None else max(1, logits.size // (2 + 2 * len(detector.ratios[0])) - 1)
    logits = state.get("head.classification_head.cls_logits.bias")
    return 1 if logits is None else max(1, logits.size // detector.network.anchors.per_place)
