"""Reader of detection data sets in VOC's XML: in PASCAL VOC's layout, in a folder for each split, or beside the images.

Splits are the lists of `ImageSets/Main/<split>.txt`, of `ImageSets` or of the folder itself; without lists, the folders
on the way to an XML file that have a split's name (train, valid, ...); without either there are none.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from cnnjax.data import decode, files
from cnnjax.data.annotations import Entry, Faults, Object, Part, Source
from cnnjax.errors import UserError, one_line

_ANNOTATIONS = ("annotations", "annotation", "annos", "anns", "labels", "label", "xmls", "xml")
_IMAGES = ("jpegimages", "images", "image", "imgs", "img", "jpgs", "photos")


def read(root: Path, faults: Faults) -> Source:
    """The splits below `root`. Classes are not given: they are the names of the objects.

    VOC's boxes are 1-based and include their last pixel: `(xmin, ymin, xmax, ymax)` becomes
    `(xmin - 1, ymin - 1, xmax, ymax)` here and nowhere else. A box with `xmax <= xmin` is a mistake of the annotation,
    not one pixel. An XML file's image has its name and any suffix; of several the one that its <filename> names; one of
    another name may be named there. Raises UserError where there is no annotation.
    """
    folder = _Folder(root, files.walk(root))
    if not folder.xml.names:
        raise UserError(f"data.path {root}: no annotation (*.xml) in or below it; expected JPEGImages, Annotations and "
                        "ImageSets/Main, or XML files beside the images")
    lists = _lists(root, folder.tree.folders)
    if lists:
        return Source({name: partial(_listed, folder, file, faults) for name, file in lists.items()},
                      "ImageSets/Main/{}.txt")
    found: dict[str, list[str]] = {}
    for name in folder.xml.names:
        found.setdefault(files.split_folder(name) or "", []).append(name)
    inside = sorted({name.partition("/ImageSets")[0] for name in folder.tree.folders if name.endswith("/ImageSets")})
    if inside and list(found) == [""]:
        raise UserError(f"data.path {root}: the lists of its splits lie further down; did you mean "
                        f"{' or '.join(str(root / name) for name in inside[:4])}?")
    if len(found) > 1:
        for name in found.pop("", []):
            faults.left_out(f"{root / name}: in no folder of a split (train, val or test)")
    for line in folder.tree.left_out:
        faults.left_out(f"{root}/{line}")
    return Source({split: partial(_whole, folder, split, names, faults) for split, names in found.items()}, "{}/*.xml")


class _Folder:
    """The annotations and images below `root`."""

    def __init__(self, root: Path, tree: files.Tree) -> None:
        self.root, self.tree = root, tree
        self.xml, self.images = files.Index(tree.files, (".xml",)), files.Index(tree.files, decode.SUFFIXES)

    def image_folders(self, annotation: str) -> list[str]:
        """Where the image of an annotation may lie: a folder of images in place of the one of annotations, its own;
        where neither has any image, that of the split or the whole set."""
        own = annotation.rpartition("/")[0]
        parts = own.split("/") if own else []
        near = ["/".join([*parts[:i], word, *parts[i + 1:]]) for i, part in enumerate(parts)
                if part.casefold() in _ANNOTATIONS for word in _IMAGES]
        near = [self._spelled(folder) for folder in (*near, own) if self.images.has(folder)]
        split = files.split_folder(annotation)
        return near or (["/".join(parts[:parts.index(split) + 1])] if split else []) or [""]

    def _spelled(self, folder: str) -> str:
        """A folder's name in the letters that it has on disk."""
        return next((name for name in self.tree.folders if name.casefold() == folder.casefold()), folder)


def _lists(root: Path, folders: Sequence[str]) -> dict[str, Path]:
    """The lists of images by the name of their split: those of ImageSets/Main, of ImageSets, of the one other folder in
    it (Segmentation, Layout); beside the annotations only those of a split's own name."""
    sets = [name for name in folders if name.casefold() == "imagesets" or name.casefold().startswith("imagesets/")]
    main = [name for name in sets if name.casefold() == "imagesets/main"]
    others = [name for name in sets if "/" in name and name not in main]
    for place in (*main, *(name for name in sets if "/" not in name), *(others if len(others) == 1 else ()), ""):
        lists = {file.stem: file for file in sorted((root / place).glob("*.[tT][xX][tT]"))
                 if place or files.split_of(file.stem) or file.stem.casefold() == "trainval"}
        if lists:
            return lists
    return {}


def _listed(folder: _Folder, file: Path, faults: Faults) -> Part:
    """The images that a list names, one a line: with or without folder and suffix; what follows a blank is ignored."""
    entries, seen = [], set()
    for line in files.read_lines(file):
        name = next((n for n in (line, line.split()[0]) if folder.xml.find(_stem(n))), line.split()[0])
        if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith("/"):
            raise UserError(f"{file}: names {name!r}, expected names of images within {folder.root}")
        found = folder.xml.find(_stem(name), _annotation_folders(folder))
        if len(found) != 1:
            wanted = folder.root / "Annotations" / f"{_stem(name)}.xml"
            faults.found(wanted, f"two annotations of one name: {' and '.join(found)}" if found else
                         "no such annotation file")
        elif found[0] in seen:
            faults.left_out(f"{file}: {name} is there twice")
        else:
            seen.add(found[0])
            entries += _entry(folder, found[0], faults)
    return Part(entries)


def _annotation_folders(folder: _Folder) -> list[str]:
    return [name for name in folder.tree.folders if name.casefold() == "annotations"] + [""]


def _stem(name: str) -> str:
    """A name of a list without the suffix of an image."""
    return next((name[: -len(suffix)] for suffix in decode.SUFFIXES if name.lower().endswith(suffix)), name)


def _whole(folder: _Folder, split: str, names: Sequence[str], faults: Faults) -> Part:
    """All annotations of a folder; its images that have none are listed."""
    entries = [entry for name in names for entry in _entry(folder, name, faults)]
    used = {entry.image for entry in entries}
    for name in folder.images.names:
        if (files.split_folder(name) or "") == split and folder.root / name not in used:
            faults.left_out(f"{folder.root / name}: has no annotation")
    return Part(entries)


def _entry(folder: _Folder, name: str, faults: Faults) -> list[Entry]:
    """The image of the annotation `name`, or nothing where it is faulty."""
    content = _parse(folder.root / name)
    if isinstance(content, str):
        faults.found(folder.root / name, content)
        return []
    stem, said = PurePosixPath(name).stem, content.filename
    same = said if folder.images.stem(said) == stem.casefold() else ""
    places = folder.image_folders(name)
    wanted = [name for name in (same, stem, said) if name]
    found = next((found for name in wanted if (found := folder.images.find(name, places))), [])
    if len(found) > 1:
        faults.found(folder.root / name, f"two images could be its own: {' and '.join(sorted(found))}; name one in "
                     "<filename>, or remove the other")
        return []
    if not found and (other := next(filter(None, map(folder.images.other, wanted)), "")):
        faults.found(folder.root / other, f"is of no kind that is read as an image (*{', *'.join(decode.SUFFIXES)})")
        return []
    image = folder.root / (found[0] if found else f"{places[0]}/{same or said or stem + '.jpg'}")
    return [Entry(image, folder.root / name, content.size, content.objects)]


class _Content(NamedTuple):
    size: tuple[int, int] | None            # height and width
    filename: str
    objects: list[Object]


def _parse(file: Path) -> _Content | str:
    """What an annotation holds, or why it is none."""
    try:
        tree = defusedxml.ElementTree.fromstring(_xml(file.read_bytes()))
        if tree.tag.casefold() != "annotation":
            return f"not a VOC annotation (its root is <{tree.tag}>, expected <annotation>)"
        height, width = (_pixels(tree.findtext(f"size/{side}") or "") for side in ("height", "width"))
        filename = (tree.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
        return _Content((height, width) if height and width else None, filename,
                        [_object(i, node) for i, node in enumerate(tree.iter("object"), 1)])
    except FileNotFoundError:
        return "no such annotation file"
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError, RecursionError) as error:
        return f"not a VOC annotation ({type(error).__name__}: {one_line(error)[:200]})"


def _xml(data: bytes) -> str:
    """An XML file's text, in the encoding of its byte order mark or, without, the one that it declares."""
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)", data)
    text = data.decode(declared[1].decode()) if declared and not declared[1].lower().startswith(b"utf") \
        else files.decode_text(data)
    return re.sub(r"^\s*<\?xml.*?\?>", "", text.lstrip("\ufeff"), count=1, flags=re.DOTALL).strip()


def _pixels(text: str) -> int | None:
    """A side of an image such as "64" or "64.0"; None where it is empty or 0. Raises ValueError."""
    value = float(text.strip() or 0)
    if not value >= 0 or value != (whole := round(value) if np.isfinite(value) else -1):
        raise ValueError(f"size {text.strip()[:20]!r}, expected a number of pixels")
    return whole or None


def _object(number: int, node: Element) -> Object:
    """An <object>; where a part of it cannot be read, the reason stands in place of its box."""
    name = (node.findtext("name") or "").strip()
    corners = [(node.findtext(f"bndbox/{side}") or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")]
    difficult = _flag(node.findtext("difficult") or "")
    box: Sequence[float] | str
    if not name:
        box = f"object {number} has no name"
    elif difficult is None:
        box = f"(object {number}): difficult is {(node.findtext('difficult') or '').strip()[:20]!r}, expected 0 or 1"
    elif not any(corners):
        box = f"(object {number}) has no bndbox"
    else:
        try:
            box = continuous([float(corner) for corner in corners])
        except ValueError:
            box = f"(object {number}): bndbox ({', '.join(c[:20] for c in corners)}), expected four numbers"
    return Object(name, box, bool(difficult), bool(_flag(node.findtext("truncated") or "")))


def _flag(text: str) -> bool | None:
    """Of 0, 1, false, true, no, yes; what is empty or unspecified is 0; None for any other text."""
    word = text.strip().casefold()
    if word in ("", "unspecified", "false", "no"):
        return False
    if word in ("true", "yes"):
        return True
    try:
        return {0.0: False, 1.0: True}.get(float(word))
    except ValueError:
        return None


def continuous(corners: Sequence[float]) -> Sequence[float]:
    """1-based inclusive corners as a continuous box; what is no box stays as it is, to be named so."""
    xmin, ymin, xmax, ymax = corners
    return (xmin - 1, ymin - 1, xmax, ymax) if xmin < xmax and ymin < ymax else corners
