"""What the fields of a ladder's config may be: checked whole before anything is read or trained."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.data.scatter import SIDES
from cnnjax.detection import backbones, rcnn
from cnnjax.errors import UserError, first_line
from cnnjax.training import loop

SHARE, SIDE = "[0, 1]", "[1, 8192]"

RANGES = {
    "seed": configs.declared(loop.FIELDS)["seed"].interval,
    "data.jitter": "(0, 1]", "data.test_share": "(0, 1)",
    **dict.fromkeys(("backbone.widths", "backbone.hidden", "faster_rcnn.rpn_channels"), "[1, 65536]"),
    "backbone.dropout": "[0, 1)",
    "backbone.pool": "[1, 64]",
    "backbone.mean": "[-1000, 1000]",
    "backbone.std": "(0, 1000]",
    **dict.fromkeys(("proposals.side", "rcnn.side", "sppnet.target"), SIDE),
    **dict.fromkeys(("proposals.smallest", "rcnn.context", "faster_rcnn.smallest"), "[0, 8192]"),
    **dict.fromkeys(("proposals.most", "rcnn.forward", "rcnn.svm_refit", "sppnet.svm_refit", "sppnet.rois",
                     "fast_rcnn.rois", "faster_rcnn.rois", "faster_rcnn.rpn_batch", "rcnn.test.most",
                     "sppnet.test.most", "test.most", "faster_rcnn.proposals_train.before",
                     "faster_rcnn.proposals_train.after", "faster_rcnn.proposals_test.before",
                     "faster_rcnn.proposals_test.after"), configs.COUNT),
    **dict.fromkeys(("rcnn.fraction", "rcnn.foreground", "rcnn.regress", "rcnn.svm_negative", "sppnet.fraction",
                     "sppnet.foreground", "sppnet.background", "sppnet.regress", "sppnet.svm_negative",
                     "fast_rcnn.fraction", "fast_rcnn.foreground", "fast_rcnn.background", "faster_rcnn.positive",
                     "faster_rcnn.negative", "faster_rcnn.rpn_fraction", "faster_rcnn.rpn_nms", "faster_rcnn.fraction",
                     "faster_rcnn.foreground", "faster_rcnn.background", "rcnn.test.nms", "sppnet.test.nms",
                     "test.nms"), SHARE),
    **dict.fromkeys(("rcnn.svm_c", "sppnet.svm_c"), "(0, 3e38]"),
    **dict.fromkeys(("rcnn.ridge", "sppnet.ridge", "faster_rcnn.border"), "[0, 3e38]"),
    "sppnet.levels": "[1, 64]",
    "sppnet.scales": "(0, 16]",
    "fast_rcnn.svd_ranks": "[0, 65536]",
    "faster_rcnn.scales": "(0, 8192]",
    "faster_rcnn.ratios": "[0.01, 100]",
}

SCATTER = {"data.train_images": "[1, 1000000]", "data.test_images": "[1, 1000000]",
           "data.size": f"[{SIDES[1]}, 8192]"}
"""Of the embedded set, whose digits have those sides."""

CHOICES = {
    "data.on_error": ("stop", "skip"),
    "dtype": ("float32", "bfloat16"),
    "proposals.mode": ("fast", "quality"),
    "fast_rcnn.pooling": ("pool", "align"),
    "faster_rcnn.pooling": ("pool", "align"),
    "faster_rcnn.method": ("joint", "alternating"),
    "faster_rcnn.anchor_style": ("caffe", "centre"),
}

LENGTHS = {"backbone.mean": 3, "backbone.std": 3, "sppnet.background": 2, "fast_rcnn.background": 2,
           "faster_rcnn.background": 2}

FILLED = ("backbone.widths", "sppnet.levels", "sppnet.scales", "faster_rcnn.scales", "faster_rcnn.ratios")


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field, what was found and what was expected."""
    fields = configs.flatten(config)
    configs.require(config, RANGES | (SCATTER if config.data.source == "scatter" else {}))
    for field, known in CHOICES.items():
        if fields[field] not in known:
            raise UserError(f"config field {field!r}: found {fields[field]!r}, expected {' or '.join(known)}"
                            f"{configs.nearest(fields[field], known)}")
    for field in (*LENGTHS, *FILLED):
        value = fields[field]
        if len(value) != LENGTHS.get(field, max(len(value), 1)):
            raise UserError(f"config field {field!r}: found {value}, expected {LENGTHS.get(field, 'some')} numbers")
    for kind in ("sppnet", "fast_rcnn", "faster_rcnn"):
        low, high = config[kind].background
        if low >= high:
            raise UserError(f"config field '{kind}.background': found ({low}, {high}), expected the lower IoU first")
    if config.faster_rcnn.negative > config.faster_rcnn.positive:
        raise UserError(f"config field 'faster_rcnn.negative': found {config.faster_rcnn.negative}, expected at most "
                        f"positive = {config.faster_rcnn.positive}")
    if 2 * config.rcnn.context >= config.rcnn.side:
        raise UserError(f"config field 'rcnn.context': found {config.rcnn.context}, expected less than half of side = "
                        f"{config.rcnn.side}")
    if config.proposals.smallest >= config.proposals.side:
        raise UserError(f"config field 'proposals.smallest': found {config.proposals.smallest}, expected less than "
                        f"side = {config.proposals.side}")
    if any(config.fast_rcnn.svd_ranks) and len(config.fast_rcnn.svd_ranks) != len(config.backbone.hidden):
        raise UserError(f"config field 'fast_rcnn.svd_ranks': found {config.fast_rcnn.svd_ranks}, expected a rank for "
                        f"each of backbone.hidden = {config.backbone.hidden}")
    if any(not isinstance(name, str) for name in config.data.classes):
        raise UserError(f"config field 'data.classes': found {config.data.classes}, expected names")
    _check_canvases(config.data.canvases)
    for phase in ("pretraining", *(f"{kind}.training" for kind in config.detectors)):
        group, _, name = phase.partition(".")
        training = config[group][name] if name else config[group]
        loop.check(training, f"{phase}.")
        if training.optimizer.label_smoothing:
            raise UserError(f"config field '{phase}.optimizer.label_smoothing': found "
                            f"{training.optimizer.label_smoothing}; no detector smooths its labels, set it to 0")
    _check_backbone(config)


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
        module = rcnn.create(backbones.create(config.backbone, config.dtype), 1)
        side = max(config.rcnn.side, 16)
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, side, side, 3), jnp.uint8)))
    except UserError:
        raise
    except Exception as error:      # whatever a layer raises for sizes that it cannot have
        raise UserError(f"config field 'backbone': {config.backbone.name} as set cannot be made "
                        f"({type(error).__name__}: {first_line(error)[:200]})") from None
    try:
        backbones.split(variables["params"], config.backbone.frozen)
    except UserError as error:
        raise UserError(f"config field 'backbone.frozen': {error}") from None
