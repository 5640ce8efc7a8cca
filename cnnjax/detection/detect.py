"""A trained detector on images from files, and pictures of what goes on inside one."""

import itertools
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import ops
from cnnjax.data.decode import SUFFIXES
from cnnjax.data.detection import read_image
from cnnjax.detection import backbones, common, detectors, faster_rcnn
from cnnjax.detection.common import Found
from cnnjax.detection.proposals import Cache, selective_search
from cnnjax.errors import UserError
from cnnjax.reporting import boxes
from cnnjax.training import workdir as workdirs


def run(folder: Path, paths: Sequence[Path], out: Path, least_score: float | None = None) -> list[dict[str, Any]]:
    """Boxes on images: the detector kept in `folder`, image files or folders of them, to `out`.

    Writes each image with its boxes drawn as `NAME.png`, or `NAME-2.png` and so on where that is an input, another's
    file or another drawing, and all of them to `detections.json`: for each image `file`, `drawing` (its name in `out`)
    and `detections`, a list of `class`, `score` and `box` (x1, y1, x2, y2) in its pixels, best first. Of the files in
    `out` only those of an earlier call are replaced. What is under `least_score` is left out; by default 0.5, or 0
    where scores are those of SVMs. Returns what the JSON holds.
    Raises UserError for a folder without a detector, no images, an image that cannot be read, or a `detections.json`
    that is not of an earlier call.
    """
    kind, classes, config, variables = common.load(folder)
    detectors.check(kind)
    if least_score is None:
        least_score = detectors.LEAST_SCORES[kind]
    detect = detectors.detector(kind, config, len(classes), variables, Cache(out / "proposals", config.proposals))
    earlier = _earlier_drawings(out)
    files = _images(paths, {out.resolve() / name for name in earlier})
    rows = []
    for file, drawing in zip(files, drawing_names(files, out, earlier), strict=True):
        image = read_image(file)
        found = detect(image).detections
        order = [i for i in np.argsort(-found.scores, kind="stable") if found.scores[i] >= least_score]
        rows.append({"file": str(file), "drawing": drawing, "detections": [
            {"class": classes[found.classes[i]], "score": round(float(found.scores[i]), 4),
             "box": [round(float(v), 2) for v in found.boxes[i]]} for i in order]})
        boxes.save(boxes.draw_detections(image, *found, classes, least_score), out / drawing)
    workdirs.write(out / "detections.json", workdirs.to_json(rows, indent=1) + "\n")
    return rows


def drawing_names(files: Sequence[Path], out: Path, earlier: Collection[str] = ()) -> list[str]:
    """The name in `out` of each file's drawing: no two alike, upper and lower case alike, none that of an input or of
    another file there. `earlier` are the names of drawings that may be replaced."""
    inputs = {file.resolve() for file in files}
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        for number in itertools.count(1):
            name = f"{file.stem}.png" if number == 1 else f"{file.stem}-{number}.png"
            path = out / name
            free = name in earlier or not os.path.lexists(path)
            if free and name.casefold() not in taken and path.resolve() not in inputs:
                break
        names.append(name)
        taken.add(name.casefold())
    return names


def _earlier_drawings(out: Path) -> set[str]:
    """The names of the drawings that `out`'s detections.json tells of. Raises UserError if it is another's file."""
    path = out / "detections.json"
    if not path.exists():
        return set()
    try:
        return {row["drawing"] for row in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not of this command, and would be overwritten; choose another --out") from None


def _images(paths: Sequence[Path], earlier: Collection[Path]) -> list[Path]:
    """The files, and those of the folders but for drawings of an earlier call."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        inside = path.iterdir() if path.is_dir() else ()
        found = sorted(f for f in inside if f.suffix.lower() in SUFFIXES and f.resolve() not in earlier)
        files += found if path.is_dir() else [path]
    if not files:
        raise UserError(f"{', '.join(map(str, paths))}: no image ({', '.join(SUFFIXES)}) there")
    return files


def anchors_picture(config: Any, image: np.ndarray, row: int | None = None, column: int | None = None) -> np.ndarray:
    """The anchors of Faster R-CNN at one place of the map, in the middle unless told otherwise, on the image's canvas.

    Raises UserError for a place that the map has not.
    """
    images, _ = common.on_canvas(image, config.data.canvases)
    settings, stride = config.faster_rcnn, backbones.create(config.backbone, config.dtype).stride
    height, width = -(-images.shape[1] // stride), -(-images.shape[2] // stride)
    row, column = height // 2 if row is None else row, width // 2 if column is None else column
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(f"place {row}, {column}: the map has {height} rows and {width} columns, counted from 0")
    each = len(settings.scales) * len(settings.ratios)
    anchors = np.asarray(ops.generate_anchors(height, width, stride, settings.scales, settings.ratios,
                                              settings.anchor_style)).reshape(height, width, each, 4)[row, column]
    colours = [boxes.COLOURS[i // len(settings.scales) % len(boxes.COLOURS)] for i in range(each)]     # one a ratio
    return boxes.draw(images[0], anchors, colours=colours)


def proposals_picture(config: Any, image: np.ndarray, most: int = 50, folder: Path | None = None) -> np.ndarray:
    """The first proposals on the image: selective search's, or those of the Faster R-CNN that is kept in `folder`.

    Raises UserError when there is another detector in `folder`.
    """
    proposed = selective_search(image, config.proposals) if folder is None else _faster(folder, image).proposals
    return boxes.draw(image, proposed[:most], width=1)


def _faster(folder: Path, image: np.ndarray) -> Found:
    kind, classes, config, variables = common.load(folder)
    if kind != "faster_rcnn":
        raise UserError(f"{folder} holds a {detectors.TITLES.get(kind, kind)}; only Faster R-CNN has its own proposals")
    return faster_rcnn.detector(config, len(classes), variables)(image)


def rois_picture(config: Any, image: np.ndarray, roi: Sequence[float]) -> np.ndarray:
    """What RoI pooling reads of a region (x1, y1, x2, y2) in the image's pixels, on the image's canvas.

    The region itself, and the pixels of the canvas under each bin of the map that it is pooled to: the bins may overlap
    and are whole cells. They are found by pooling maps that are 1 in one row or column, so that what is drawn is
    what is computed. Raises UserError for a region without area.
    """
    if not (roi[2] > roi[0] and roi[3] > roi[1]):
        raise UserError(f"region {tuple(roi)} has no area; expected x1 < x2 and y1 < y2")
    images, sizes = common.on_canvas(image, config.data.canvases)
    backbone = backbones.create(config.backbone, config.dtype)
    stride, bins = backbone.stride, backbone.pool
    height, width = -(-images.shape[1] // stride), -(-images.shape[2] // stride)
    scaled = np.asarray(roi, np.float32) * np.tile(sizes[0][::-1] / image.shape[1::-1], 2)
    # channel r is 1 in row r alone, and likewise for columns: the maximum over a bin says what it touches
    rows = np.broadcast_to(np.eye(height, dtype=np.float32)[:, None], (height, width, height))
    columns = np.broadcast_to(np.eye(width, dtype=np.float32)[None], (height, width, width))
    pool = jax.jit(lambda m: ops.roi_pool(m, scaled[None], bins, 1 / stride)[0])
    touched_rows, touched_columns = np.asarray(pool(rows))[:, 0], np.asarray(pool(columns))[0]      # (bins, height) ..
    cells = []
    for y in touched_rows:
        for x in touched_columns:
            if y.any() and x.any():
                ys, xs = np.flatnonzero(y), np.flatnonzero(x)
                cells.append([xs[0] * stride, ys[0] * stride, (xs[-1] + 1) * stride, (ys[-1] + 1) * stride])
    every = np.array([*cells, scaled])
    return boxes.draw(images[0], every, colours=[boxes.COLOURS[2]] * len(cells) + [boxes.COLOURS[0]], width=1)
