"""Reader of detection data sets in COCO's JSON, as COCO itself lays them out and as annotation tools export them.

A split is `annotations/instances_<split>.json`, or any JSON file of its name, or the one in the folder of its name
(`train/_annotations.coco.json`); a single file of no split's name is the whole set.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from cnnjax.data import decode, files
from cnnjax.data.annotations import Entry, Faults, Object, Part, Source, is_number, object_of
from cnnjax.errors import UserError

_OTHER = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")      # that COCO has beside instances_
_WORDS = ("instances", "annotations", "annotation", "coco", "labels", "result", "results")


def read(root: Path, faults: Faults) -> Source:
    """The splits below the folder `root`, or the images of the JSON file `root`, which is the whole set.

    Classes are the categories of each file in order of their ids.
    A box is `[x, y, width, height]`, already continuous; `iscrowd` makes an object difficult. Two categories of one
    name are one class. An image's size is read from the image where the annotation does not give it. Raises UserError
    where there is no JSON file.
    """
    alone = root.name if root.is_file() else ""
    if alone:
        root = root.parent
        if root.name.casefold() == "annotations":
            root, alone = root.parent, f"{root.name}/{alone}"
    tree = files.walk(root)
    images = files.Index(tree.files, decode.SUFFIXES)
    found: dict[str, list[str]] = {"": [alone]} if alone else {}
    for name in tree.files if not alone else ():
        folder, _, last = name.rpartition("/")
        if last.lower().endswith(".json") and not last.startswith(_OTHER) and folder.count("/") < 2:
            found.setdefault(_split(name), []).append(name)
    instances = {split: official for split, names in found.items()
                 if (official := [name for name in names if name.rpartition("/")[2].startswith("instances_")])}
    found = instances or found
    if not found:
        raise UserError(f"data.path {root}: no annotation file (*.json) in it; expected "
                        "annotations/instances_<split>.json")
    return Source({split: partial(_part, root, split or _split(names[0]), names, images, faults)
                   for split, names in found.items()}, "annotations/instances_{}.json")


def _split(name: str) -> str:
    """The split of a JSON file: what its name has beside `instances` and the like, else its folder's, else none."""
    folder, _, last = name.rpartition("/")
    stem = last.rpartition(".")[0]
    words = [word for word in stem.replace(".", "_").replace("-", "_").split("_") if word]
    rest = "_".join(word for word in words if word.casefold() not in _WORDS)
    if rest:
        return stem.removeprefix("instances_") if stem.startswith("instances_") else rest
    return next((part for part in folder.split("/") if files.split_of(part)), "")


def _part(root: Path, split: str, names: list[str], images: files.Index, faults: Faults) -> Part:
    if len(names) > 1:
        raise UserError(f"data.path {root}: {len(names)} files could be the annotations"
                        f"{f' of split {split!r}' if split else ''}: {', '.join(names[:4])}; keep one of them there")
    file, folder = root / names[0], names[0].rpartition("/")[0]
    try:
        content = json.loads(files.read_text(file))
        categories = _categories(content)
        listed = _images(content, file, faults)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not a COCO annotation file ({type(error).__name__}: {error})") from None
    objects = _objects(content, [image["id"] for image in listed], categories, file, faults)
    places = _places(split, folder, images)
    entries = []
    for image in listed:
        entry = _entry(root, file, folder, image, objects, images, places, faults)
        entries += [entry] if entry is not None else []
    if not split or places == _of_split(split, images):         # else other splits' images lie there too
        used = {entry.image for entry in entries}
        for name in images.names:
            if root / name not in used and any(not place or name.startswith(f"{place}/") for place in places):
                faults.left_out(f"{root / name}: not in {file.name}")
    return Part(entries, _classes(content, categories, file, faults))


def _of_split(split: str, images: files.Index) -> list[str]:
    """The folders of images that have the name of a split."""
    return [place for place in (split, f"images/{split}", f"{split}/images") if split and images.has(place)]


def _places(split: str, folder: str, images: files.Index) -> list[str]:
    """The folders in which the images of a split may lie; all, where there are none of its name."""
    own = _of_split(split, images)
    if not own and (folder.casefold() not in ("", "annotations") and images.has(folder)):
        own = [folder]
    return own or [place for place in ("images", "") if images.has(place)] or [""]


def _entry(root: Path, file: Path, folder: str, image: dict[str, Any], objects: dict[Any, list[Object]],
           images: files.Index, places: list[str], faults: Faults) -> Entry | None:
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip():
        faults.found(file, f"image {image['id']} has no file_name")
        return None
    above = ".." in name.replace("\\", "/").split("/")
    found = images.find(name, [folder] if above else places)
    if len(found) != 1:
        reason = "no such image file" if not found else f"several images could be meant: {', '.join(found)}"
        if not found and (other := images.other(name)):
            reason = f"no such image file; {other} is of no kind that is read (*{', *'.join(decode.SUFFIXES)})"
        if above and not found:
            reason = f"the image {name!r} lies outside of its folder"
        faults.found(file if above else root / places[0] / name, reason)
        return None
    height, width = (_side(image.get(side)) for side in ("height", "width"))
    return Entry(root / found[0], file, (height, width) if height and width else None, objects.get(image["id"], []))


def _side(value: Any) -> int | None:
    """A side of an image in pixels; None for what is none: it is read from the image then."""
    return int(value) if is_number(value) and 0 < value < 2**31 and value == int(value) else None


def _categories(content: Any) -> dict[Any, str]:
    """The categories' names by their ids. Raises KeyError, TypeError or ValueError, saying where."""
    for part in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise TypeError(f"it has no list {part!r}")
    names: dict[Any, str] = {}
    for i, category in enumerate(content["categories"]):
        for field, kind in (("id", int), ("name", str)):
            if not isinstance(category, dict) or type(category.get(field)) is not kind:
                raise TypeError(f"categories[{i}] has no {field!r} of type {kind.__name__}")
        name = category["name"].strip()
        if not name:
            raise ValueError(f"categories[{i}] has no name")
        if names.setdefault(category["id"], name) != name:
            raise ValueError(f"two of the categories have the same id, {category['id']}: {names[category['id']]!r} and "
                             f"{name!r}")
    return names


def _images(content: dict[str, Any], file: Path, faults: Faults) -> list[dict[str, Any]]:
    """The images, without those that have no id. Raises ValueError where two have one, so that objects could be of
    either."""
    images: dict[Any, dict[str, Any]] = {}
    for i, image in enumerate(content["images"]):
        if not isinstance(image, dict) or type(image.get("id")) not in (int, str):
            faults.found(file, f"images[{i}] has no 'id' of type int")
        elif image["id"] not in images:
            images[image["id"]] = image
        elif image.get("file_name") == images[image["id"]].get("file_name"):
            faults.found(file, f"images[{i}] is there twice (id {image['id']})")
        else:
            raise ValueError(f"two of the images have the same id, {image['id']}")
    return list(images.values())


def _classes(content: dict[str, Any], categories: dict[Any, str], file: Path, faults: Faults) -> tuple[str, ...]:
    """The classes in order of their categories' ids. Two categories of one name are one class; a category that has no
    object and is only the parent of others, as some exports have at their root, is none."""
    used = Counter(str(a.get("category_id")) for a in content["annotations"] if isinstance(a, dict))
    parents = {c["supercategory"].strip() for c in content["categories"]
               if isinstance(c.get("supercategory"), str) and c["supercategory"] != c["name"]}
    with_objects = {name for i, name in categories.items() if used[str(i)]}
    ids: dict[str, list[int]] = {}
    for i, name in sorted(categories.items()):
        ids.setdefault(name, []).append(i)
    order: dict[str, int] = {}
    for name, same in ids.items():
        of_objects = [i for i in same if used[str(i)]]
        if len(of_objects) > 1:
            faults.note(f"{file}: the categories {', '.join(map(str, of_objects))} have the same name {name!r}: they "
                        "are one class")
        elif len(same) > 1:
            faults.left_out(f"{file}: {len(same) - 1} of the {len(same)} categories named {name!r} without an object")
        if name in parents and name not in with_objects and len(ids) > 1:
            faults.left_out(f"{file}: the category {name!r}, the parent of others, without an object")
        else:
            order[name] = min(of_objects or same)
    return tuple(sorted(order, key=order.__getitem__))


def _objects(content: dict[str, Any], images: list[Any], categories: dict[Any, str], file: Path,
             faults: Faults) -> dict[Any, list[Object]]:
    """The objects by the ids of `images`. One of an unknown image or category is a fault."""
    objects: dict[Any, list[Object]] = {image: [] for image in images}
    for i, annotation in enumerate(content["annotations"]):
        where = f"annotations[{i}]"
        if not isinstance(annotation, dict):
            faults.found(file, f"{where} is {annotation!r:.40}, expected an object")
            continue
        image, category = annotation.get("image_id"), annotation.get("category_id")
        for of, known, what in ((image, objects, "image"), (category, categories, "category")):
            if isinstance(of, bool) or not isinstance(of, int | float | str) or of not in known:
                faults.found(file, f"{where} is of the {what} {of!r:.40}, which is not in the list")
                break
        else:
            objects[image].append(object_of(where, categories[category], annotation.get("bbox"), annotation.get("area"),
                                            annotation.get("iscrowd")))
    return objects
