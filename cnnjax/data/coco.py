"""Detection sets in COCO's JSON: `annotations/instances_<split>.json` and the images in a folder `<split>`."""

import json
from pathlib import Path
from typing import Any

from cnnjax.config import nearest
from cnnjax.data.detection import DetectionSet, Entry, Faults, assemble
from cnnjax.errors import UserError


def read(path: str, train_split: str, test_split: str, classes: tuple[str, ...],
         faults: Faults) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """The two splits and the classes: those of the JSON in order of their ids, or the ones given.

    A box is `[x, y, width, height]`, already continuous; `iscrowd` makes an object difficult. Raises UserError.
    """
    root = Path(path)
    found: dict[str, dict[str, Any]] = {split: _parse(root, split) for split in {train_split, test_split}}
    known = {c["id"]: c["name"] for c in found[train_split]["categories"]}
    names = tuple(classes) or tuple(known[i] for i in sorted(known))
    for name in names:
        if name not in known.values():
            raise UserError(f"data.classes: {name!r} is no category of {path}{nearest(name, known.values())}")
    try:
        train, test = (_split(root, split, found[split], names, faults) for split in (train_split, test_split))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"data.path {path}: an annotation lacks or mistypes a field ({type(error).__name__}: {error})"
                        ) from None
    return train, test, names


def _parse(root: Path, split: str) -> dict[str, Any]:
    file = root / "annotations" / f"instances_{split}.json"
    try:
        content = json.loads(file.read_text())
        for key in ("images", "annotations", "categories"):
            content[key]
    except FileNotFoundError:
        raise UserError(f"data.path {root}: no file annotations/instances_{split}.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a COCO annotation file ({type(error).__name__}: {error})") from None
    return content


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
