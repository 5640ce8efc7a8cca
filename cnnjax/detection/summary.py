"""The layers of a detector's network with shapes and parameters, for `cnnjax summary`: see `cnnjax.models.summary`."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import detection
from cnnjax.detection.rpn import Proposals
from cnnjax.models.summary import Summary, summarise_call

AFTER_POOLING = ("roi_heads", "head", "classes")
"""Parts of the detectors in two stages that work on a region."""


def summarise_detector(name: str, num_classes: int | None = None, image: tuple[int, int, int] | None = None,
                       **fields: Any) -> Summary:
    """The layers of `detection.create(name, num_classes, **fields)` on images of `(H, W, C)`, by default VOC's 20
    classes and the paper's images.

    Of a detector in two stages the layers after RoI pooling are those of one region. Raises UserError as `create` does.
    """
    detector: Any = detection.create(name, num_classes or 20, **fields)
    module = detector.network
    canvases = getattr(detector, "canvases", None) or ((detector.side, detector.side),)     # R-CNN's: a warped region
    height, width = image[:2] if image else canvases[0]
    region = jnp.array([[[0.0, 0.0, width, height]]])
    known = {"sizes": jnp.array([[height, width]]), "rois": region,
             "select": lambda proposed: Proposals(region, jnp.ones((1, 1)), jnp.ones((1, 1), bool))}
    given = {argument: known[argument] for argument in inspect.signature(type(module).__call__).parameters
             if argument in known}
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    summary = summarise_call(name, module, lambda variables, x: module.apply(variables, x, **given), variables,
                             (height, width, 3))
    if "rois" in given or "select" in given:
        for layer in summary.layers:
            if layer.name.split("/")[0] in AFTER_POOLING:
                layer.receptive_field = None                            # as large as the region
    return summary
