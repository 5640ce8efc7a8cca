"""Reader of Hugging Face's image folders: `metadata.jsonl` or `.csv` beside the images or in each split's folder.

`file_name` is relative to the metadata. For classification the class is in `label`; for detection `objects` holds
lists: `bbox`, each `[x, y, width, height]` in pixels, and `category` (or `categories`), and perhaps `area`.
"""

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cnnjax.config import user_path
from cnnjax.data import decode, files
from cnnjax.data.annotations import Entry, Faults, Object, Part, Source, object_of
from cnnjax.data.labelled import Row, listing
from cnnjax.data.sets import Listing
from cnnjax.errors import UserError

NAMES = ("metadata.jsonl", "metadata.csv")
LABELS = ("label", "labels", "class", "category", "target")


def list_metadata(path: str) -> tuple[Path, Listing]:
    """The image files that the metadata of the folder `path` name, by their label. Raises UserError."""
    base = user_path(path)
    if not path or not base.is_dir():
        raise UserError(f"data.path: no folder {path!r}")
    tree = files.walk(base)
    found: list[Row] = []
    for name in _metadata(tree, base):
        for where, row in _rows(base / name):
            key = next((key for key in LABELS if key in row), None)
            if key is None:
                raise UserError(f"{where}: no 'label' among {', '.join(row)}; expected one, or images in a folder a "
                                "class (data.source=folder)")
            label = row[key]
            if isinstance(label, list | dict):
                raise UserError(f"{where}: {key} is {label!r:.60}, expected one class")
            text = str(int(label) if isinstance(label, float) and label.is_integer() else label).strip()
            found.append(Row(row["file_name"], "" if label is None else text, _split(name) or "", where,
                             name.rpartition("/")[0]))
    return base, listing(base, tree, found)


def read(root: Path, faults: Faults) -> Source:
    """The splits of a set with `objects`. Classes are those of the objects: names, or numbers where those are given."""
    tree = files.walk(root)
    images = files.Index(tree.files, decode.SUFFIXES)
    parts: dict[str, list[str]] = {}
    for name in _metadata(tree, root):
        parts.setdefault(files.split_folder(name) or "", []).append(name)
    return Source({split: partial(_part, root, names, images, faults) for split, names in parts.items()},
                  "{}/metadata.jsonl")


def _part(root: Path, names: list[str], images: files.Index, faults: Faults) -> Part:
    entries = []
    for name in names:
        for where, row in _rows(root / name):
            if "objects" not in row:
                raise UserError(f"{where}: no 'objects' among {', '.join(row)}; expected bbox and category lists")
            found = images.find(row["file_name"], [name.rpartition("/")[0]])
            if len(found) > 1:
                faults.found(where, f"{row['file_name']!r} could be {' or '.join(found)}")
                continue
            image = root / (found[0] if found else Path(name).parent / row["file_name"])
            entries.append(Entry(image, Path(where), None, _objects(row["objects"])))
    used = {entry.image for entry in entries}
    below = [name.rpartition("/")[0] for name in names]
    for other in images.names:
        if root / other not in used and any(not folder or other.startswith(f"{folder}/") for folder in below):
            faults.left_out(f"{root / other}: not in the metadata")
    return Part(entries)


def _objects(value: Any) -> list[Object]:
    """The objects of a row; where they cannot be read, one without a name whose box is the reason."""
    rows = value if isinstance(value, dict) else None
    if rows is None and isinstance(value, list) and all(isinstance(row, dict) for row in value):
        keys = {key for row in value for key in row}
        rows = {key: [row.get(key) for row in value] for key in keys} if value else {"bbox": [], "category": []}
    if rows is None:
        return [Object("", f"objects is {value!r:.60}, expected an object of lists")]
    boxes, names = rows.get("bbox"), next((rows[k] for k in ("category", "categories", "label") if k in rows), None)
    areas = rows.get("area")
    if not isinstance(boxes, list) or not isinstance(names, list) or len(boxes) != len(names):
        return [Object("", "objects has no lists 'bbox' and 'category' of one length")]
    if not isinstance(areas, list) or len(areas) != len(boxes):
        areas = [None] * len(boxes)
    return [object_of(f"object {i}", str(name).strip(), box, area)
            for i, (name, box, area) in enumerate(zip(names, boxes, areas, strict=True), 1)]


def _metadata(tree: files.Tree, base: Path) -> list[str]:
    """The metadata files, at most one a folder."""
    found = [name for name in tree.files if name.rpartition("/")[2] in NAMES]
    folders = [name.rpartition("/")[0] for name in found]
    if not found:
        raise UserError(f"data.path: {base} has no metadata.jsonl or metadata.csv")
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(f"data.path: {base / twice} has a metadata.jsonl and a metadata.csv; remove one")
    return found


def _split(name: str) -> str | None:
    return next((split for part in name.split("/")[:-1] if (split := files.split_of(part))), None)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and its fields; of a CSV, cells that are JSON are read as such."""
    text = files.read_text(file).lstrip("\ufeff")
    if file.suffix == ".csv":
        cells = list(csv.reader(text.splitlines()))
        rows: list[tuple[int, Any]] = [(i, dict(zip(cells[0], map(_cell, row), strict=False)))
                                       for i, row in enumerate(cells[1:], 2) if any(row)]
    else:
        rows = [(i, _json(f"{file}, line {i}", line)) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not rows:
        raise UserError(f"{file}: is empty")
    for i, row in rows:
        where = f"{file}, line {i}"
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"].strip():
            raise UserError(f"{where}: no 'file_name'; expected a JSON object with one" if file.suffix != ".csv" else
                            f"{where}: no 'file_name'; expected a column of that name")
        yield where, row


def _cell(text: str) -> Any:
    """A cell that holds lists as those, any other as text."""
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _json(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
