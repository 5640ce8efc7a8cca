"""Pictures of what goes on inside a detector: anchors, proposals, and what RoI pooling and spatial pyramids read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import ops
from cnnjax.detection import backbones, inference, saved, settings
from cnnjax.detection.proposals import SelectiveSearch, selective_search
from cnnjax.errors import UserError
from cnnjax.reporting import boxes
from cnnjax.training import workdir as workdirs


def draw(workdir: Path, what: str, image: np.ndarray, roi: Sequence[float] = (), levels: Sequence[int] = ()) -> Path:
    """Draws "anchors", "proposals", "roi" or "pyramid" on an image, by the detectors of the run in `workdir`, and
    writes it there. Proposals are those of the first trained network that makes its own, else selective search's.

    Raises UserError for a ladder without anchors, and as the pictures do.
    """
    config = workdirs.read_config(workdir)
    if "model" in config:
        detectors = {config.model.name: settings.create(config, 1)}
        folders = {config.model.name: workdir}
    else:
        detectors = {name: settings.detector_of(config, name, 1) for name in config.detectors}
        folders = {name: workdir / "cells" / name for name in config.detectors}
    if what == "anchors":
        with_anchors = [detector for detector in detectors.values() if hasattr(detector, "anchors")]
        if not with_anchors:
            raise UserError(f"{workdir}: none of its detectors ({', '.join(detectors)}) has anchors")
        picture = anchors_picture(with_anchors[0], image)
    elif what == "proposals":
        own = [folders[name] for name, detector in detectors.items() if not detector.needs_proposals]
        search = next((d.proposals for d in detectors.values() if d.needs_proposals), SelectiveSearch())
        picture = proposals_picture(search, image, own)
    else:
        with_backbone = next(detector for detector in detectors.values() if hasattr(detector, "backbone"))
        picture = (rois_picture(with_backbone, image, roi) if what == "roi" else
                   pyramid_picture(with_backbone, image, levels))
    path = workdir / "figures" / f"{what}.png"
    boxes.save(picture, path)
    return path


def anchors_picture(detector: Any, image: np.ndarray, row: int | None = None, column: int | None = None) -> np.ndarray:
    """The `anchors` of a detector at one place of its last level, in the middle unless told otherwise, on the image's
    canvas.

    Raises UserError for a place that the level has not.
    """
    canvas, _ = detector.preprocess(image)
    stride = backbones.create(detector.backbone, detector.dtype).stride
    height, width = -(-canvas.shape[0] // stride), -(-canvas.shape[1] // stride)
    row, column = height // 2 if row is None else row, width // 2 if column is None else column
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(f"place {row}, {column}: the map has {height} rows and {width} columns, counted from 0")
    each, scales = detector.anchors.per_place, len(detector.anchors.scales)
    (every,) = detector.anchors(canvas.shape[:2], {"last": (np.zeros((1, height, width, 0)), stride)})
    colours = [boxes.COLOURS[i // scales % len(boxes.COLOURS)] for i in range(each)]       # one a ratio
    return boxes.draw(canvas, np.asarray(every).reshape(height, width, each, 4)[row, column], colours=colours)


def proposals_picture(search: SelectiveSearch, image: np.ndarray, folders: Sequence[Path] = (), top_n: int = 50,
                      ) -> np.ndarray:
    """The first proposals on the image: those of the first detector kept in `folders` that makes its own, else those of
    selective search."""
    for folder in folders:
        if (folder / "detector.json").exists():
            detector, _, variables = saved.load(folder)
            proposed = inference.predict(detector, variables, image).proposals
            if len(proposed):
                return boxes.draw(image, proposed[:top_n], width=1)
    return boxes.draw(image, selective_search(image, search)[:top_n], width=1)


def rois_picture(detector: Any, image: np.ndarray, roi: Sequence[float]) -> np.ndarray:
    """What RoI pooling reads of a region (x1, y1, x2, y2) in the image's pixels, on the image's canvas.

    The region itself, and the pixels of the canvas under each bin of the map that it is pooled to: the bins may overlap
    and are whole cells. They are found by pooling maps that are 1 in one row or column, so that what is drawn is
    what is computed. Raises UserError for a region without area.
    """
    if not (roi[2] > roi[0] and roi[3] > roi[1]):
        raise UserError(f"region {tuple(roi)} has no area; expected x1 < x2 and y1 < y2")
    canvas, size = detector.preprocess(image)
    stride, bins = backbones.create(detector.backbone, detector.dtype).stride, detector.backbone.pool
    height, width = -(-canvas.shape[0] // stride), -(-canvas.shape[1] // stride)
    scaled = np.asarray(roi, np.float32) * np.tile(size[::-1] / image.shape[1::-1], 2)
    pool = jax.jit(lambda m: ops.roi_pool(m, scaled[None], bins, 1 / stride)[0])
    cells = _bins(pool, height, width, stride)
    every = np.array([*cells, scaled])
    return boxes.draw(canvas, every, colours=[boxes.COLOURS[2]] * len(cells) + [boxes.COLOURS[0]], width=1)


def pyramid_picture(detector: Any, image: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """The bins of a spatial pyramid over the map of a whole image, a picture of its canvas for each level side by side.

    They are found as those of `rois_picture`. Raises UserError for a level under 1.
    """
    if min(levels) < 1:
        raise UserError(f"--pyramid {' '.join(map(str, levels))}: expected at least 1 bin a side")
    canvas, size = detector.preprocess(image)
    stride = backbones.create(detector.backbone, detector.dtype).stride
    height, width = (-(-int(side) // stride) for side in size)
    pictures = []
    for level in levels:
        def pool(m: Any, level: int = level) -> jax.Array:
            return ops.spatial_pyramid_pool(m, (level,)).reshape(level, level, -1)
        cells = _bins(pool, height, width, stride)
        pictures.append(boxes.draw(canvas, np.array(cells), colours=[boxes.COLOURS[2]] * len(cells), width=1))
    return boxes.grid([pictures])


def _bins(pool: Callable[[np.ndarray], jax.Array], height: int, width: int, stride: int) -> list[list[int]]:
    """What each bin of `pool`, `(height, width, C) -> (rows, columns, C)`, reads of a map, in pixels of its image.

    Channel r of a map is 1 in row r alone, and of another one in column r: the maximum over a bin says what it touches.
    """
    rows = np.broadcast_to(np.eye(height, dtype=np.float32)[:, None], (height, width, height))
    columns = np.broadcast_to(np.eye(width, dtype=np.float32)[None], (height, width, width))
    touched_rows, touched_columns = np.asarray(pool(rows))[:, 0], np.asarray(pool(columns))[0]      # (bins, height) ..
    cells = []
    for y in touched_rows:
        for x in touched_columns:
            if y.any() and x.any():
                ys, xs = np.flatnonzero(y), np.flatnonzero(x)
                cells.append([xs[0] * stride, ys[0] * stride, (xs[-1] + 1) * stride, (ys[-1] + 1) * stride])
    return cells
