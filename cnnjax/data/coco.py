"""Detection sets in COCO's JSON: `annotations/instances_<split>.json` and the images in a folder `<split>`."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from cnnjax.config import nearest, user_path
from cnnjax.data.detection import DetectionSet, Entry, Faults, assemble
from cnnjax.errors import UserError


def read(path: str, train_split: str, test_split: str, classes: tuple[str, ...],
         faults: Faults) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """The two splits and the classes: those of the JSON in order of their ids, or the ones given.

    A box is `[x, y, width, height]`, already continuous; `iscrowd` makes an object difficult. Raises UserError.
    """
    root = user_path(path)
    found: dict[str, dict[str, Any]] = {split: _parse(root, split) for split in {train_split, test_split}}
    known: dict[int, str] = {c["id"]: c["name"] for c in found[train_split]["categories"]}
    names = tuple(classes) or tuple(known[i] for i in sorted(known))
    for name in names:
        if name not in known.values():
            raise UserError(f"data.classes: {name!r} is no category of {path}{nearest(name, known.values())}")
    train, test = (_split(root, split, found[split], names, faults) for split in (train_split, test_split))
    return train, test, names


def _parse(root: Path, split: str) -> dict[str, Any]:
    file = root / "annotations" / f"instances_{split}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        _check(content)
    except FileNotFoundError:
        raise UserError(f"data.path {root}: no file annotations/instances_{split}.json") from None
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise UserError(f"{file}: not a COCO annotation file ({type(error).__name__}: {error})") from None
    return content


_FIELDS: dict[str, dict[str, Any]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "categories": {"id": int, "name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
}


def _check(content: Any) -> None:
    """Raises KeyError, TypeError or ValueError, saying where, for a field that is missing or of another type, an id
    that is there twice or is not there, and an image that would lie outside of its folder."""
    for part, fields in _FIELDS.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise TypeError(f"it has no list {part!r}")
        for i, entry in enumerate(content[part]):
            for field, kind in fields.items():
                if not isinstance(entry, dict) or type(entry.get(field)) is not kind:
                    raise TypeError(f"{part}[{i}] has no {field!r} of type {kind.__name__}")
    for part, field in (("images", "id"), ("categories", "id"), ("categories", "name")):
        values = [entry[field] for entry in content[part]]
        if len(set(values)) < len(values):
            raise ValueError(f"two of the {part} have the same {field}")
    for image in content["images"]:
        name = PurePosixPath(image["file_name"])
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise ValueError(f"the image {image['file_name']!r} lies outside of its folder")
    images, categories = ({entry["id"] for entry in content[part]} for part in ("images", "categories"))
    for i, entry in enumerate(content["annotations"]):
        if entry["image_id"] not in images or entry["category_id"] not in categories:
            raise ValueError(f"annotations[{i}] is of an unknown image or category")
        if len(entry["bbox"]) != 4 or any(type(side) not in (int, float) for side in entry["bbox"]):
            raise ValueError(f"annotations[{i}] has the bbox {entry['bbox']!r}, expected four numbers")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise ValueError(f"annotations[{i}] has iscrowd {entry['iscrowd']!r}, expected 0 or 1")


def _split(root: Path, split: str, content: dict[str, Any], names: tuple[str, ...], faults: Faults) -> DetectionSet:
    name_of = {c["id"]: c["name"] for c in content["categories"]}
    objects: dict[Any, list[tuple[str, list[float], bool, bool]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        objects[annotation["image_id"]].append((name_of[annotation["category_id"]], [x, y, x + width, y + height],
                                                bool(annotation.get("iscrowd", 0)), False))
    file = root / "annotations" / f"instances_{split}.json"
    entries = [Entry(root / split / image["file_name"], file, (image["height"], image["width"]), objects[image["id"]])
               for image in content["images"]]
    return assemble(entries, names, faults)
