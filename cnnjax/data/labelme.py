"""Reader of detection data sets of LabelMe: a JSON file for each image, whose `imagePath` leads to the image.

Splits are the folders on the way to a JSON file that have a split's name; without such there are none.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from cnnjax.data import decode, files
from cnnjax.data.annotations import Entry, Faults, Object, Part, Source, is_number
from cnnjax.errors import UserError, one_line

_CORNERS = {"rectangle": 2, "mask": 2, "polygon": 3}
"""The least points of a shape that has a bounding box; a circle has its centre and a point on it."""


def read(root: Path, faults: Faults) -> Source:
    """The splits below `root`. Classes are not given: they are the labels of the shapes.

    Of polygons, masks and circles the bounding boxes are used; points and lines are left out, and counted. Raises
    UserError where there is no JSON file.
    """
    tree = files.walk(root)
    parts: dict[str, list[str]] = {}
    for name in tree.files:
        if name.lower().endswith(".json"):
            parts.setdefault(files.split_folder(name) or "", []).append(name)
    if not parts:
        raise UserError(f"data.path {root}: no annotation (*.json) in or below it; expected LabelMe's files beside "
                        "the images")
    for line in tree.left_out:
        faults.left_out(f"{root}/{line}")
    images = files.Index(tree.files, decode.SUFFIXES)
    return Source({split: partial(_part, root, split, names, images, faults) for split, names in parts.items()},
                  "{}/*.json")


def _part(root: Path, split: str, names: list[str], images: files.Index, faults: Faults) -> Part:
    entries: list[Entry] = []
    others: Counter[str] = Counter()
    for name in names:
        content = _parse(root / name)
        if isinstance(content, str):
            faults.found(root / name, content)
            continue
        folder, said = name.rpartition("/")[0], str(content.get("imagePath") or "")
        found = images.find(said, [folder]) or images.find(PurePosixPath(name).stem, [folder])
        if len(found) > 1:
            faults.found(root / name, f"two images could be its own: {' and '.join(sorted(found))}")
            continue
        image = root / (found[0] if found else PurePosixPath(folder, said or f"{PurePosixPath(name).stem}.jpg"))
        height, width = (content.get(side) for side in ("imageHeight", "imageWidth"))
        size = (int(height), int(width)) if is_number(height) and is_number(width) and min(height, width) > 0 else None
        objects = [_object(i, shape, others) for i, shape in enumerate(content["shapes"], 1)]
        entries.append(Entry(image, root / name, size, [found for found in objects if found is not None]))
    for kind, count in others.items():
        faults.note(f"{count} shapes in {root / split} are of kind {kind!r}, which has no box: they are left out")
    used = {entry.image for entry in entries}
    for name in images.names:
        if (files.split_folder(name) or "") == split and root / name not in used:
            faults.left_out(f"{root / name}: has no annotation")
    return Part(entries)


def _parse(file: Path) -> dict[str, Any] | str:
    """What an annotation holds, or why it is none."""
    try:
        content = json.loads(files.read_text(file))
    except (UserError, ValueError, RecursionError) as error:
        return f"not JSON ({one_line(error)[:200]})"
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return "not a LabelMe annotation (it has no list 'shapes')"
    return content


def _object(number: int, shape: Any, others: Counter[str]) -> Object | None:
    """A shape as an object; the reason stands in place of a box that cannot be read. None for a shape without a box,
    which is counted in `others`."""
    where = f"(shape {number})"
    if not isinstance(shape, dict):
        return Object("", f"{where}: {shape!r:.40}, expected an object")
    name, kind, points = str(shape.get("label") or "").strip(), shape.get("shape_type", "polygon"), shape.get("points")
    if not name:
        return Object("", f"{where} has no label")
    if kind not in (*_CORNERS, "circle"):
        others[str(kind)] += 1
        return None
    if not isinstance(points, list) or len(points) < _CORNERS.get(kind, 2) or not all(
            isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points):
        return Object(name, f"{where}: points {points!r:.60}, expected a {kind}'s")
    xs, ys = zip(*points, strict=True)
    if kind == "circle":
        radius = ((xs[1] - xs[0]) ** 2 + (ys[1] - ys[0]) ** 2) ** 0.5
        return Object(name, [xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius])
    return Object(name, [min(xs), min(ys), max(xs), max(ys)])
