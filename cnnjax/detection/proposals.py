"""Region proposals from outside the network: selective search (Uijlings et al. 2013) as OpenCV has it, kept on disk."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cnnjax.data.detection import content_key, rescale_boxes
from cnnjax.errors import UserError


class Proposals(NamedTuple):
    """Proposals of one image, (P, 4) float32 in its pixels, likely objects first, and the seconds they took."""

    boxes: np.ndarray
    seconds: float


def selective_search(image: np.ndarray, config: Any) -> np.ndarray:
    """The boxes (P, 4) of an image (H, W, 3) uint8, in its pixels; the same image gives the same boxes.

    The order is that of Uijlings et al., section 3.3: the regions of the hierarchy from the largest on, each place
    multiplied by a random number, so that the largest do not all come first.

    `config` is the `proposals` group: `mode` "fast" or "quality"; `side`, to which the longer side of the image is
    brought before (R-CNN: 500); `smallest`, the least side there; `most`, how many are kept. Raises UserError for
    another mode.
    """
    if config.mode not in ("fast", "quality"):
        raise UserError(f"proposals.mode: found {config.mode!r}, expected 'fast' or 'quality'")
    height, width = image.shape[:2]
    factor = config.side / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    if min(size) < 2:           # nothing to group
        return np.array([[0, 0, width, height]], np.float32)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(scaled[..., ::-1]))
    if config.mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    x, y, w, h = np.asarray(search.process(), np.float32).reshape(-1, 4).T
    boxes = np.stack([x, y, x + w, y + h], -1)[(w >= config.smallest) & (h >= config.smallest)]
    boxes = np.unique(boxes, axis=0)
    # OpenCV orders by C's rand(); here too large regions come early and by chance, but the same at every call
    rank = np.argsort(np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")) + 1
    order = np.argsort(rank * np.random.default_rng(0).uniform(size=len(boxes)), kind="stable")
    return rescale_boxes(boxes[order][: config.most], size, (height, width))


class Cache:
    """Proposals by the content of the image and the settings that made them, one file each in a folder."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder, self.config = folder, config
        self.settings = f"{config.mode}-{config.side}-{config.smallest}-{config.most}"

    def __call__(self, image: np.ndarray) -> Proposals:
        file = self.folder / f"{content_key(image)}-{self.settings}.npz"
        if not file.exists():
            began = time.perf_counter()
            boxes = selective_search(image, self.config)
            seconds = time.perf_counter() - began
            self.folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb") as out:
                np.savez(out, boxes=boxes, seconds=seconds)
            part.replace(file)          # a run that is killed here leaves no half of a file
        with np.load(file) as kept:
            return Proposals(kept["boxes"], float(kept["seconds"]))

    def all(self, images: Iterable[np.ndarray]) -> list[Proposals]:
        """The proposals of each image in turn."""
        return [self(image) for image in images]
