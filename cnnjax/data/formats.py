"""Detect the format of a data set from its files, for `data.source=auto`."""

from pathlib import Path

from cnnjax.config import user_path
from cnnjax.data import csv_labels, decode, files, huggingface, yolo
from cnnjax.errors import UserError

_KNOWN = {"detect": "VOC's *.xml, COCO's *.json, YOLO's data.yaml or classes.txt, LabelMe's *.json, Hugging "
                    "Face's metadata.jsonl with objects",
          "classify": "a folder a class, a table *.csv, Hugging Face's metadata.jsonl, MNIST's idx files, a tar"}
_HEAD = 2**16       # bytes of a JSON file in which COCO's lists are looked for, at its beginning and its end
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")


def guess(path: str, task: str) -> str:
    """The data.source that reads what lies at `path`, for the `task` "classify" or "detect".

    Raises UserError where there is nothing that is known, or where there are the annotations of two formats.
    """
    root = user_path(path)
    if not path or not root.exists():
        raise UserError(f"data.path: no file or folder {path!r}")
    found = _detection(root) if task == "detect" else _classification(root)
    if len(found) > 1:
        raise UserError(f"data.path {root}: has annotations of several formats, {', '.join(found)}; name one in "
                        "data.source")
    if not found:
        raise UserError(f"data.path {root}: no data set of a known format; expected {_KNOWN[task]}")
    return found[0]


def resolve(source: str, path: str, task: str) -> tuple[str, tuple[str, ...]]:
    """`source`, or what "auto" stands for, and a note that says so. Raises UserError as `guess`."""
    if source != "auto":
        return source, ()
    return (found := guess(path, task)), (f"data.source=auto: {path} is read as {found}",)


def guess_task(path: str) -> str:
    """"detect" where there are boxes, else "classify"."""
    root = user_path(path)
    return "detect" if root.exists() and _detection(root) else "classify"


def _detection(root: Path) -> list[str]:
    if root.is_file():
        return ["yolo"] if root.suffix.lower() in yolo.SUFFIXES else ["coco"] if _is_coco(root) else []
    names = files.walk(root).files
    last = [name.rpartition("/")[2] for name in names]
    found = []
    if any(name.lower().endswith(".xml") for name in names):
        found.append("voc")
    if any(_is_coco(root / name) for name in names if name.lower().endswith(".json") and name.count("/") < 2):
        found.append("coco")
    if any(_is_labelme(root / name) for name in names if name.lower().endswith(".json")):
        found.append("labelme")
    if any(_has_objects(root / name) for name, file in zip(names, last, strict=True) if file in huggingface.NAMES):
        found.append("huggingface")
    texts = [name for name in names if name.endswith(".txt") and "labels" in name.casefold().split("/")[:-1]]
    if yolo.find_yaml(root) or "classes.txt" in last or any(file.endswith(".names") for file in last) or texts:
        found.append("yolo")
    return found


def _classification(root: Path) -> list[str]:
    if root.is_file():
        name = root.name.lower()
        return ["csv"] if name.endswith(csv_labels.SUFFIXES) else ["tar"] if name.endswith(_TARS) else []
    tree = files.walk(root)
    last = [name.rpartition("/")[2] for name in tree.files]
    if any(name.startswith("train-images-idx3-ubyte") for name in last):
        return ["idx"]
    if any(name in huggingface.NAMES for name in last):
        return ["huggingface"]
    if csv_labels.find(tree):
        return ["csv"]
    folders = {name.split("/")[0] for name in tree.files if "/" in name and name.lower().endswith(decode.SUFFIXES)}
    return ["folder"] if folders else []


def _is_coco(file: Path) -> bool:
    """Whether a JSON file has COCO's lists."""
    data = _ends(file)
    return sum(word in data for word in (b'"images"', b'"annotations"', b'"categories"')) > 1


def _is_labelme(file: Path) -> bool:
    """Whether a JSON file has LabelMe's shapes and size."""
    data = _ends(file)
    return all(word in data for word in (b'"shapes"', b'"imageHeight"'))


def _ends(file: Path) -> bytes:
    """The beginning and the end of a text file."""
    with file.open("rb") as stream:
        data = stream.read(_HEAD)
        stream.seek(max(0, file.stat().st_size - _HEAD))
        return (data + stream.read()).replace(b"\0", b"")           # UTF-16


def _has_objects(file: Path) -> bool:
    with file.open("rb") as stream:
        return b"objects" in stream.read(_HEAD)
