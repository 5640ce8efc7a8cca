"""A trained detector on image files: each drawn with its detections, and all listed in `detections.json`."""

import itertools
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import class_names, interop
from cnnjax.data.assemble import read_image
from cnnjax.data.decode import SUFFIXES
from cnnjax.detection import inference, saved
from cnnjax.detection.proposals import Cache
from cnnjax.detection.saved import Saved
from cnnjax.errors import UserError
from cnnjax.reporting import boxes
from cnnjax.training import workdir as workdirs


def of_weights(name: str, weights: str | Path, classes: Path | None = None) -> Saved:
    """The detector `name` with torchvision's weights of a file, and the names of its classes.

    These are those of a file (`class_names.read`), with "__background__" or without, or COCO's, which torchvision
    numbers to 90 with gaps. Raises UserError where names are missing, or are not as many as the detector's classes.
    """
    detector, variables = interop.detector_from_torch(name, weights)
    count = detector.num_classes
    if classes is None:
        names = class_names.coco_of(count)
        if names is None:
            raise UserError(f"COCO has {len(class_names.known('coco')) - 1} classes, but {weights} is for {count}; "
                            "give a file of their names by --classes, one a line")
        return Saved(detector, names, variables)
    names = class_names.read(classes)
    if len(names) == count + 1 and names[0] == class_names.BACKGROUND:
        names = names[1:]
    if len(names) != count:
        raise UserError(f"{classes}: names {len(names)} classes, but {weights} is for {count}; give a file of their "
                        "names by --classes, one a line")
    return Saved(detector, names, variables)


def run(folder: Path, paths: Sequence[Path], out: Path, score_threshold: float | None = None) -> list[dict[str, Any]]:
    """`detect` by the detector kept in a folder. Raises UserError too where there is none."""
    return detect(saved.load(folder), paths, out, score_threshold)


def detect(trained: Saved, paths: Sequence[Path], out: Path,
           score_threshold: float | None = None) -> list[dict[str, Any]]:
    """Detections on images: image files or folders of them, to `out`.

    Writes each image with its boxes drawn as `NAME.png`, or `NAME-2.png` and so on where that is an input, another's
    file or another drawing, and all of them to `detections.json`: for each image `file`, `drawing` (its name in `out`)
    and `detections`, a list of `class`, `score` and `box` (x1, y1, x2, y2) in its pixels, best first. Of the files in
    `out` only those of an earlier call are replaced. Detections under `score_threshold` are left out; by default it is
    the detector's. Returns what the JSON holds.
    Raises UserError for no images, an image that cannot be read, or a `detections.json` that is not of an earlier call.
    """
    detector, classes, variables = trained
    if score_threshold is None:
        score_threshold = detector.default_score_threshold
    search = Cache(out / "proposals", detector.proposals) if detector.needs_proposals else None
    earlier = _earlier_drawings(out)
    files = _images(paths, {out.resolve() / name for name in earlier})
    rows = []
    for file, drawing in zip(files, drawing_names(files, out, earlier), strict=True):
        image = read_image(file)
        found = inference.predict(detector, variables, image, search).detections
        order = [i for i in np.argsort(-found.scores, kind="stable") if found.scores[i] >= score_threshold]
        rows.append({"file": str(file), "drawing": drawing, "detections": [
            {"class": classes[found.classes[i]], "score": round(float(found.scores[i]), 6),
             "box": [round(float(v), 2) for v in found.boxes[i]]} for i in order]})
        boxes.save(boxes.draw_detections(image, *found, classes, score_threshold), out / drawing)
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
