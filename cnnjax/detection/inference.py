"""Run a detector on one image of any size: resize, detect, map the boxes back to the image; timed by part."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.data.canvases import rescale_boxes
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.proposals import Proposals
from cnnjax.evaluation.voc_ap import Detections


class Prediction(NamedTuple):
    """The detections on one image, in its pixels, and the seconds of "proposals", "network" and "rest"."""

    detections: Detections
    proposals: np.ndarray       # (P, 4), best first; none of a detector without proposals
    seconds: dict[str, float]


def predict(detector: Detector, variables: Variables, image: np.ndarray,
            search: Callable[[np.ndarray], Proposals] | None = None) -> Prediction:
    """The detections on an image (H, W, 3) uint8. `search` makes the proposals of a detector that needs them.

    The seconds of a network's own proposals are part of "network".
    """
    proposed = search(image) if detector.needs_proposals and search is not None else None
    began = time.perf_counter()
    canvas, size = detector.preprocess(image)
    rois: Any = None
    if proposed is not None:
        boxes = rescale_boxes(proposed.boxes, image.shape[:2], size)
        rois = np.zeros((1, next_power_of_two(len(boxes)), 4), np.float32)
        rois[0, : len(boxes)] = boxes
    ready = time.perf_counter()
    batch: Any = canvas[None], size[None], rois
    output = jax.device_get(detector.predict(variables, *batch))
    done = time.perf_counter()

    def to_image(boxes: np.ndarray) -> np.ndarray:
        return rescale_boxes(boxes, size, image.shape[:2])

    mask = output.mask[0]
    detections = Detections(to_image(output.boxes[0][mask]), output.scores[0][mask],
                            output.classes[0][mask].astype(np.int32))
    own = output.proposals[0] if output.proposals is not None else np.zeros((0, 4), np.float32)
    proposals = to_image(own[(own[:, 2:] > own[:, :2]).all(1)]) if proposed is None else proposed.boxes
    rest = ready - began + time.perf_counter() - done
    return Prediction(detections, proposals, {"proposals": 0.0 if proposed is None else proposed.seconds,
                                              "network": done - ready, "rest": rest})


def next_power_of_two(count: int) -> int:
    """The least power of two that is at least `count`, and at least 64: few static sizes serve every image."""
    return max(64, 1 << max(count - 1, 0).bit_length())
