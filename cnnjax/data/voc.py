"""Detection sets in the layout of PASCAL VOC: `JPEGImages`, `Annotations`, `ImageSets/Main/<split>.txt`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from cnnjax.config import nearest, user_path
from cnnjax.data.detection import DetectionSet, Entry, Faults, Objects, assemble, usable_box
from cnnjax.errors import UserError, one_line

TFDS_SPLITS = {"trainval": "train+validation", "val": "validation"}     # TFDS' names of VOC's splits
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG")


def read(path: str, train_split: str, test_split: str, classes: tuple[str, ...],
         faults: Faults) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """The two splits (such as "trainval", or "train+val") and the classes: the names found, sorted, or the ones given.

    VOC's boxes are 1-based and include their last pixel: `(xmin, ymin, xmax, ymax)` becomes
    `(xmin - 1, ymin - 1, xmax, ymax)` here and nowhere else. A box with `xmax <= xmin` is a slip of the annotation, not
    one pixel. Objects of classes that are not among the given ones are left out. Raises UserError for what is missing,
    and as `faults` decides.
    """
    root = user_path(path)
    if not root.is_dir():
        raise UserError(f"data.path {path}: no such folder; expected one with JPEGImages, Annotations, ImageSets/Main")
    splits = {split: _identifiers(root, split) for split in (train_split, test_split)}
    parsed = {i: _parse(root / "Annotations" / f"{i}.xml") for ids in splits.values() for i in ids}
    found = sorted({name for content in parsed.values() if not isinstance(content, str) for name, *_ in content[1]})
    names = tuple(classes) or tuple(found)
    for name in names:
        if name not in found:
            raise UserError(f"data.classes: no object {name!r} in {path}{nearest(name, found)}")
    train, test = (_split(root, splits[split], parsed, names, faults) for split in (train_split, test_split))
    return train, test, names


def _identifiers(root: Path, split: str) -> list[str]:
    identifiers: list[str] = []
    for part in split.split("+"):
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        if not file.is_file():
            known = [p.stem for p in file.parent.glob("*.txt")]
            raise UserError(f"data.path {root}: no split {part!r} (ImageSets/Main/{part}.txt){nearest(part, known)}")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not a list of images ({error})") from None
        identifiers += [line.split()[0] for line in lines if line.strip()]
    for identifier in identifiers:
        if "/" in identifier or "\\" in identifier:
            raise UserError(f"data.path {root}: split {split!r} names {identifier!r}, expected names without a folder")
    return identifiers


Parsed = tuple[tuple[int, int] | None, list[tuple[str, Sequence[float], bool, bool]]]


def _parse(file: Path) -> Parsed | str:
    """The (height, width) and the objects (name, box, difficult, truncated) of an annotation, or why there are none."""
    try:
        tree = defusedxml.ElementTree.parse(file).getroot()
        if tree.tag != "annotation":
            return f"not a VOC annotation (its root is <{tree.tag}>, expected <annotation>)"
        size = tree.find("size")
        said = None if size is None else (int(size.findtext("height", "0")), int(size.findtext("width", "0")))
        objects: list[tuple[str, Sequence[float], bool, bool]] = []
        for node in tree.iter("object"):
            box = node.find("bndbox")
            if box is None:
                return f"object {node.findtext('name')!r} has no bndbox"
            corners = [float(box.findtext(side, "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
            name, difficult = node.findtext("name", "").strip(), node.findtext("difficult", "0").strip()
            if not name:
                return "an object has no name"
            if difficult not in ("0", "1"):
                return f"object {name!r}: difficult is {difficult!r}, expected 0 or 1"
            truncated = node.findtext("truncated", "0").strip() == "1"
            objects.append((name, _continuous(corners), difficult == "1", truncated))
    except FileNotFoundError:
        return "no such annotation file"
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError) as error:
        return f"not a VOC annotation ({type(error).__name__}: {one_line(error)[:200]})"
    return (said if said and all(said) else None), objects


def _continuous(corners: Sequence[float]) -> Sequence[float]:
    """1-based inclusive corners as a continuous box; what is no box stays as it is, to be named so."""
    xmin, ymin, xmax, ymax = corners
    return (xmin - 1, ymin - 1, xmax, ymax) if xmin < xmax and ymin < ymax else corners


def _split(root: Path, identifiers: list[str], parsed: dict[str, Parsed | str], names: tuple[str, ...],
           faults: Faults) -> DetectionSet:
    entries = []
    for identifier in identifiers:
        content, annotation = parsed[identifier], root / "Annotations" / f"{identifier}.xml"
        if isinstance(content, str):
            faults.found(annotation, content)
            continue
        images = [root / "JPEGImages" / (identifier + suffix) for suffix in SUFFIXES]
        image = next((file for file in images if file.exists()), images[0])
        entries.append(Entry(image, annotation, *content))
    return assemble(entries, names, faults)


def read_tfds(path: str, train_split: str, test_split: str,
              faults: Faults) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """VOC 2007 as tensorflow-datasets prepared it, as array_record, in the folder `path`.

    TFDS divides the 1-based corners by the size of the image and nothing else, so they are mended as above.
    Raises UserError where it is not prepared.
    """
    if not any(Path(path).glob("voc/2007/*/dataset_info.json")):
        raise UserError(f"data.path {path}: VOC 2007 is not prepared there; run `tfds build voc/2007 --data_dir {path} "
                        "--file_format array_record` once, where TensorFlow is installed")
    import tensorflow_datasets as tfds

    builder = tfds.builder("voc/2007", data_dir=path, file_format="array_record")
    names = tuple(builder.info.features["objects"]["label"].names)

    def split(which: str) -> DetectionSet:
        source: Any = builder.as_data_source("+".join(TFDS_SPLITS.get(part, part) for part in which.split("+")))
        kept, sizes, objects, titles = [], [], [], []
        for i, example in enumerate(source):
            title, (height, width) = example["image/filename"].decode(), example["image"].shape[:2]
            rows = []
            for bbox, label, difficult, truncated in zip(*(np.asarray(example["objects"][key]) for key in (
                    "bbox", "label", "is_difficult", "is_truncated")), strict=True):
                box = usable_box(_continuous(bbox[[1, 0, 3, 2]] * [width, height, width, height]), height, width)
                if isinstance(box, str):
                    faults.found(title, f"{names[label]} {box}")
                else:
                    rows.append((box, int(label), bool(difficult), bool(truncated)))
            kept.append(i)
            sizes.append((height, width))
            objects.append(Objects.of(rows))
            titles.append(title)
        return DetectionSet(tuple(titles), np.array(sizes).reshape(-1, 2), tuple(objects),
                            lambda i: np.asarray(source[kept[i]]["image"]))

    return split(train_split), split(test_split), names
