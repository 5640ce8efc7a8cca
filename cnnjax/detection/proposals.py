"""Region proposals made outside of the network: selective search (Uijlings et al. 2013) by OpenCV, cached on disk."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cnnjax.data.canvases import rescale_boxes
from cnnjax.errors import UserError
from cnnjax.fields import COUNT, setting


class Proposals(NamedTuple):
    """Proposals of one image, (P, 4) float32 in its pixels, likely objects first, and the seconds they took."""

    boxes: np.ndarray
    seconds: float


@dataclass(frozen=True)
class SelectiveSearch:
    """Hyperparameters of selective search."""

    mode: str = setting("fast", ("fast", "quality"), "of OpenCV's selective search")
    side: int = setting(500, "[1, 8192]", "pixels that the longer side of the image is resized to")
    min_size: int = setting(20, "[0, 8192]", "pixels of a box's sides there")
    max_proposals: int = setting(2000, COUNT, "of an image")

    def __post_init__(self) -> None:
        if self.min_size >= self.side:
            raise UserError(f"config field 'proposals.min_size': found {self.min_size}, expected less than side = "
                            f"{self.side}")


def selective_search(image: np.ndarray, config: SelectiveSearch) -> np.ndarray:
    """The boxes (P, 4) of an image (H, W, 3) uint8, in its pixels; the same image gives the same boxes.

    The order is that of Uijlings et al., section 3.3: the regions of the hierarchy from the largest on, each rank
    multiplied by a random number, so that the largest do not all come first.
    """
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
    boxes = np.stack([x, y, x + w, y + h], -1)[(w >= config.min_size) & (h >= config.min_size)]
    boxes = np.unique(boxes, axis=0)
    # OpenCV orders by C's rand(); here too large regions come early and by chance, but the same at every call
    rank = np.argsort(np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")) + 1
    order = np.argsort(rank * np.random.default_rng(0).uniform(size=len(boxes)), kind="stable")
    return rescale_boxes(boxes[order][: config.max_proposals], size, (height, width))


class Cache:
    """Proposals by the content of the image and the hyperparameters, one file each in a folder."""

    def __init__(self, folder: Path, config: SelectiveSearch) -> None:
        self.folder, self.config = folder, config
        self.settings = f"{config.mode}-{config.side}-{config.min_size}-{config.max_proposals}"

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


def content_key(image: np.ndarray) -> str:
    """A name for an image by its pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
