"""Reader of detection data sets in YOLO's text files: `class cx cy width height` of each object, in image shares.

The splits and class names stand in a YAML file (data.yaml); without one, splits are lists (train.txt) or folders of
their name, and names stand in classes.txt or *.names, a line each.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cnnjax.data import decode, files
from cnnjax.data.annotations import Entry, Faults, Object, Part, Source
from cnnjax.errors import UserError, one_line

SUFFIXES = (".yaml", ".yml")
_NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "labels.txt", "names.txt")
_SLACK = 0.01           # shares may lie this far outside of 0 to 1: a box is cut at the image's border


def read(root: Path, faults: Faults) -> Source:
    """The splits below the folder `root`, or of the YAML file `root`. An image's label lies in the folder `labels` in
    place of `images`, or beside it.

    An image without a label file has no object: YOLO's way to say so. A line of more numbers is a polygon, whose
    bounding box is taken. Raises UserError for a YAML file that cannot be understood, and where there are no images.
    """
    file, root = (root, root.parent) if root.is_file() else (find_yaml(root), root)
    content = _load(file) if file else {}
    names = _names(root, content, file, faults)
    keypoints = "kpt_shape" in content
    images = {split: found for split, found in (_of_yaml(file, content, faults) if file else _of_folders(root)).items()
              if found}
    if not images:
        raise UserError(f"data.path {root}: no images" + (f" where {file.name} says that the splits are" if file else
                                                          " and no data.yaml in it"))
    return Source({split: partial(_part, root, found, names, keypoints, faults) for split, found in images.items()},
                  "{}/images")


def find_yaml(root: Path) -> Path | None:
    """The YAML file of a set: data.yaml, or the only one that has names or splits. Raises UserError for several."""
    found = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    usual = [file for file in found if file.stem.casefold() in ("data", "dataset")]
    described = usual or [file for file in found if set(_load(file)) & {"names", "train", "nc"}]
    if len(described) > 1:
        raise UserError(f"data.path {root}: {' and '.join(file.name for file in described)} could describe the set; "
                        "name one of them in data.path")
    return described[0] if described else None


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(files.read_text(file).replace("\t", "    "))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not YAML ({one_line(error)[:200]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found {type(content).__name__}, expected names, train, val and test")
    return content


def _names(root: Path, content: dict[str, Any], file: Path | None, faults: Faults) -> tuple[str, ...] | None:
    """The class names by their number; None where none are given."""
    given = content.get("names")
    if isinstance(given, dict):
        try:
            given = [given[key] for key in sorted(given, key=int)] if sorted(map(int, given)) == list(
                range(len(given))) else None
        except (TypeError, ValueError):
            given = None
        if given is None:
            raise UserError(f"{file}: names must be numbered from 0 on without a gap")
    if file and given is not None:
        if not isinstance(given, list) or not given or any(isinstance(name, list | dict) for name in given):
            raise UserError(f"{file}: names is {given!r:.60}, expected a list of class names")
        if content.get("nc", len(given)) != len(given):
            raise UserError(f"{file}: nc is {content['nc']!r:.40}, but there are {len(given)} names")
        names = tuple(str(name).strip() for name in given)
    else:
        lists = [root / name for name in _NAMES] + sorted(root.glob("*.names")) + sorted(root.glob("*/classes.txt"))
        found = next((path for path in lists if path.is_file()), None)
        if found is None:
            faults.note(f"no class names in {root} (data.yaml, classes.txt): classes are called by their numbers")
            return None
        names = tuple(files.read_lines(found))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        faults.note(f"{root}: several classes are named {', '.join(map(repr, twice))}: they are one class")
    return names


def _of_yaml(file: Path, content: dict[str, Any], faults: Faults) -> dict[str, list[Path]]:
    """The images of each split that a YAML file names: a folder, a list of images, or several of them."""
    splits: dict[str, list[Path]] = {}
    for key, value in content.items():
        places = value if isinstance(value, list) else [value]
        if not files.split_of(str(key)) or value in (None, "", []):
            continue
        if any(not isinstance(place, str) for place in places):
            raise UserError(f"{file}: {key} is {value!r:.60}, expected a folder, a list of images, or several of them")
        images: list[Path] = []
        for place in places:
            found = _place(file, content.get("path"), place)
            if found is None:
                faults.left_out(f"{file}: {key} is {place!r}, which is not there")
            else:
                images += _images(found) if found.is_dir() else _list(found)
        splits[str(key)] = images
    return splits


def _place(file: Path, path: Any, place: str) -> Path | None:
    """A folder or list that a YAML file names relative to its `path`, to itself, or a level too high (as Roboflow)."""
    place = place.replace("\\", "/").strip()
    roots = [file.parent / path, file.parent / Path(path).name] if isinstance(path, str) else []
    for root in (*roots, file.parent):
        for name in (place.replace("../", ""), place):
            if (root / name).exists():
                return root / name
    return None


def _of_folders(root: Path) -> dict[str, list[Path]]:
    """The images of each list of a split's name, or of each folder of one; without either all."""
    lists = {file.stem: file for file in sorted(root.glob("*.txt")) if files.split_of(file.stem)}
    if lists:
        return {split: _list(file) for split, file in lists.items()}
    splits: dict[str, list[Path]] = {}
    for path in _images(root):
        parts = path.relative_to(root).parts[:-1]
        splits.setdefault(next((part for part in parts if files.split_of(part)), ""), []).append(path)
    if len(splits) > 1:
        splits.pop("", None)
    return splits


def _images(folder: Path) -> list[Path]:
    return [folder / name for name in files.walk(folder).files if name.lower().endswith(decode.SUFFIXES)]


def _list(file: Path) -> list[Path]:
    """The images that a list names, relative to it, or to a folder above it."""
    found = []
    for line in files.read_lines(file):
        places = [above / line.replace("\\", "/") for above in (file.parent, *file.parents[1:3])]
        found.append(next((place for place in places if place.is_file()), places[0]))
    return found


def _label(image: Path) -> Path:
    """The label file of an image."""
    parts = image.parts
    at = [i for i, part in enumerate(parts[:-1]) if part.casefold() == "images"]
    swapped = [Path(*parts[:at[-1]], word, *parts[at[-1] + 1:]).with_suffix(".txt") for word in ("labels", "Labels")
               ] if at else []
    beside = image.with_suffix(".txt")
    return next((file for file in (*swapped, beside) if file.is_file()), (swapped or [beside])[0])


def _part(root: Path, images: Sequence[Path], names: tuple[str, ...] | None, keypoints: bool, faults: Faults) -> Part:
    entries, empty, polygons = [], 0, 0
    used, seen = set(), set()
    for image in images:
        if image in seen:
            faults.left_out(f"{image}: is there twice")
            continue
        seen.add(image)
        label = _label(image)
        used.add(label)
        lines: list[str] = []
        if label.is_file():
            try:
                lines = files.read_lines(label)
            except UserError as error:
                faults.found(label, str(error).removeprefix(f"{label}: "))
                continue
        else:
            empty += 1
        objects = [_object(f"(line {i})", line.split(), names, keypoints) for i, line in enumerate(lines, 1)]
        polygons += sum(len(line.split()) > 5 for line in lines) if not keypoints else 0
        entries.append(Entry(image, label, None, objects, relative=True))
    if empty:
        faults.note(f"{empty} of {len(entries)} images in {images[0].parent} have no label file: they are without "
                    "objects")
    if polygons:
        faults.note(f"{polygons} objects in {images[0].parent} are polygons: their bounding boxes are used")
    for folder in sorted({label.parent for label in used if "labels" in str(label).casefold().split("/")[:-1]}):
        for label in sorted(set(folder.glob("*.txt")) - used):
            if label.name not in _NAMES and not label.name.startswith("README"):
                faults.left_out(f"{label}: has no image")
    if names is None:
        return Part(entries)
    return Part(entries, tuple(dict.fromkeys(names)))


def _object(where: str, words: Sequence[str], names: tuple[str, ...] | None, keypoints: bool) -> Object:
    """A line as an object whose box is in shares; where it cannot be read, the reason stands in place of the box."""
    try:
        number, *values = (float(word) for word in words)
    except ValueError:
        return Object("", f"{where}: {' '.join(words)[:60]!r}, expected numbers")
    if number < 0 or not number.is_integer() or (names is not None and number >= len(names)):
        return Object("", f"{where}: class {words[0]}, expected 0 to {len(names) - 1 if names else '...'}")
    name = names[int(number)] if names is not None else str(int(number))
    if keypoints:
        values = values[:4]
    if len(values) < 4 or len(values) == 5 or len(values) % 2:
        return Object(name, f"{where}: has {len(words)} numbers, expected class cx cy width height, or a polygon")
    if any(not -_SLACK <= value <= 1 + _SLACK for value in values):
        return Object(name, f"{where}: {' '.join(words[1:])[:60]} are not shares of the image's sides, from 0 to 1")
    if len(values) == 4:
        cx, cy, width, height = values
        return Object(name, [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    xs, ys = values[::2], values[1::2]
    return Object(name, [min(xs), min(ys), max(xs), max(ys)])
