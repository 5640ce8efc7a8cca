"""Pictures of boxes on images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#f032e6")


def draw(image: np.ndarray, boxes: np.ndarray, labels: Sequence[str] = (), colours: Sequence[str] = (), *,
         min_side: int = 384, width: int = 2) -> np.ndarray:
    """The image (H, W, 3) uint8 with boxes (B, 4) in its pixels drawn on it.

    `labels` and `colours` have one entry a box, or none. A small image is enlarged a whole number of times, so that its
    longer side has at least `min_side` pixels, before lines of `width` are drawn.
    """
    factor = max(1, -(-min_side // max(image.shape[:2])))
    picture = Image.fromarray(image.repeat(factor, 0).repeat(factor, 1))
    pen = ImageDraw.Draw(picture)
    for i, box in enumerate(np.asarray(boxes, float) * factor):
        colour = colours[i] if colours else COLOURS[0]
        x1, y1, x2, y2 = box
        pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour, width=width)
        if labels:
            where = (x1, max(y1 - 11, 0))
            pen.rectangle(pen.textbbox(where, labels[i]), fill=colour)
            pen.text(where, labels[i], fill="white")
    return np.asarray(picture)


def draw_detections(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray,
                    names: Sequence[str], score_threshold: float) -> np.ndarray:
    """The detections of at least that score, each with its class and score in the colour of the class."""
    shown = np.flatnonzero(scores >= score_threshold)
    return draw(image, boxes[shown], [f"{names[classes[i]]} {scores[i]:.2f}" for i in shown],
                [COLOURS[classes[i] % len(COLOURS)] for i in shown])


def grid(pictures: Sequence[Sequence[np.ndarray]], gap: int = 6) -> np.ndarray:
    """Rows of pictures in one, white between them."""
    height = max(p.shape[0] for row in pictures for p in row) + gap
    width = max(p.shape[1] for row in pictures for p in row) + gap
    out = np.full((height * len(pictures), width * max(map(len, pictures)), 3), 255, np.uint8)
    for r, row in enumerate(pictures):
        for c, picture in enumerate(row):
            out[r * height:r * height + picture.shape[0], c * width:c * width + picture.shape[1]] = picture
    return out


def save(picture: np.ndarray, path: Path) -> None:
    """Writes a picture (H, W, 3) uint8, its folder too where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
