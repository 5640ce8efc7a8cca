"""A trained detector as a file for other programs: StableHLO for one canvas, a PyTorch state dict, safetensors."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cnnjax.detection import saved
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.faster_rcnn_fpn import FasterRCNNFPN
from cnnjax.detection.retinanet import RetinaNet
from cnnjax.detection.ssd import SSD
from cnnjax.errors import UserError, one_line
from cnnjax.interop import torch_pickle
from cnnjax.interop.detectors import detector_from_torch, detector_state
from cnnjax.interop.export import PLATFORMS, keep
from cnnjax.interop.files import write_safetensors

TORCHVISION: dict[type, str] = {FasterRCNNFPN: "fasterrcnn_resnet50_fpn", RetinaNet: "retinanet_resnet50_fpn",
                                SSD: "ssd300_vgg16"}
"""torchvision's network of each kind of detector."""

_PYRAMID_CANVAS = (256, 320)        # on which detectors of images of any size are compared: small, so quick

Outputs = Sequence[Any]
"""Boxes (1, D, 4), scores, classes from 0 and mask (1, D)."""


def export_detector(format: str, path: Path, detector: Detector, classes: Sequence[str], variables: Variables, *,
                    canvas: tuple[int, int] | None = None, overwrite: bool = False) -> float:
    """Writes a detector to `path` in one of the formats of `cnnjax export`; gives the greatest difference found, of
    scores and of boxes in units of the canvas.

    StableHLO is `predict` on one image of `canvas` (height, width), by default the first of the detector's. Raises
    UserError as `export.export`.
    """
    if detector.needs_proposals:
        raise UserError(f"{detector.title} takes region proposals, which selective search makes outside of the "
                        "network: no format holds that; export a detector that makes its own")
    if format == "onnx":
        raise UserError("--format onnx: holds classifiers, not detectors, whose NMS is a loop; use stablehlo")
    if canvas is not None and format != "stablehlo":
        raise UserError(f"--canvas goes with --format stablehlo: the {format} of a detector takes images of any size")
    canvases: Sequence[tuple[int, int]] = detector.canvases         # type: ignore[attr-defined]
    shape = canvas or canvases[0]
    fixed = getattr(detector, "stretch", False) and shape not in canvases
    if fixed or min(shape) < 32:
        raise UserError(f"--canvas {shape[0]} {shape[1]}: {detector.title} takes images of "
                        f"{'{} {}'.format(*canvases[0]) if fixed else '32 pixels a side or more'}")
    text = json.dumps(_describe(detector, classes, shape if format == "stablehlo" else None), indent=1)
    if format == "stablehlo":
        def again(part: Path) -> float:
            return difference(jax.export.deserialize(bytearray(part.read_bytes())).call, _answers(detector, variables),
                              shape)
        return keep(format, path, text, lambda part: part.write_bytes(_program(detector, variables, shape)), again,
                    "its numbers are too great for float32, or this is a fault of cnnjax", overwrite)
    name = TORCHVISION.get(type(detector))
    if name is None:
        raise UserError(f"--format {format}: torchvision has no {detector.title}; use stablehlo")

    def write(part: Path) -> None:
        with _cannot_hold(name):
            state = detector_state(detector, variables)
        if format == "torch":
            torch_pickle.save(part, state, text)
        else:
            write_safetensors(part, state, {"format": "pt", "cnnjax": text})

    def compare(part: Path) -> float:
        with _cannot_hold(name):
            theirs, read = detector_from_torch(name, part)
        # Every box counts, and what torchvision's constructor is given beside the weights, such as the IoU of NMS.
        test = dataclasses.replace(detector.test, score_threshold=0.0)          # type: ignore[attr-defined]
        ours, theirs = (dataclasses.replace(d, test=test) for d in (detector, theirs))     # type: ignore[type-var]
        small = shape if isinstance(detector, SSD) else _PYRAMID_CANVAS
        return difference(_answers(theirs, read), _answers(ours, variables), small)

    return keep(format, path, text, write, compare, f"torchvision's {name} is another network, such as in its anchors",
                overwrite)


@contextlib.contextmanager
def _cannot_hold(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"torchvision's {name} cannot hold this detector: {one_line(error)}") from None


def _describe(detector: Detector, classes: Sequence[str], canvas: tuple[int, int] | None) -> dict[str, Any]:
    """What using it outside of cnnjax needs, as JSON."""
    placed = "stretched to the canvas" if getattr(detector, "stretch", False) else "at its top left, else 0"
    program = {"images": f"(1, H, W, 3) float32: RGB in [0, 255], {placed}",
               "sizes": "(1, 2) int32: height and width that the image takes there",
               "output": "boxes (1, D, 4) as x1, y1, x2, y2 in pixels of the canvas, scores (1, D), classes (1, D) "
                         "from 0, mask (1, D): False for padding",
               "canvas": canvas}
    return {"detector": detector.title, "classes": list(classes), "fields": saved.fields_of(detector),
            **(program if canvas else {})}


def _answers(detector: Detector, variables: Variables) -> Callable[[Any, Any], Outputs]:
    def program(images: Any, sizes: Any) -> Outputs:
        return detector.predict(variables, images, sizes)[:4]
    return program


def _program(detector: Detector, variables: Variables, canvas: tuple[int, int]) -> bytes:
    arguments = (jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.int32))
    return bytes(jax.export.export(jax.jit(_answers(detector, variables)), platforms=PLATFORMS)(*arguments).serialize())


def difference(run: Callable[[Any, Any], Outputs], expected: Callable[[Any, Any], Outputs],
               canvas: tuple[int, int]) -> float:
    """The greatest difference of scores and of boxes on two random images, in units of the greatest score where that is
    over 1, and of the longer side of the canvas or the greatest box; infinite where not the same boxes are kept in the
    same order, or a number is not finite."""
    worst = 0.0
    for seed, size in enumerate((canvas, (canvas[0] * 3 // 4, canvas[1] // 2))):
        images = np.zeros((1, *canvas, 3), np.float32)
        images[:, :size[0], :size[1]] = np.random.default_rng(seed).integers(0, 256, (*size, 3))
        found, right = ([np.asarray(part) for part in f(images, np.array([size], np.int32))] for f in (run, expected))
        mask = right[3]
        if not np.array_equal(found[3], mask) or not np.array_equal(found[2][mask], right[2][mask]):
            return float("inf")
        for at, unit in ((0, max(canvas)), (1, 1)):
            if mask.any():
                size_of = max(unit, np.abs(right[at][mask]).max())
                worst = max(worst, float(np.abs(found[at][mask] - right[at][mask]).max() / size_of))
    return worst if np.isfinite(worst) else float("inf")
