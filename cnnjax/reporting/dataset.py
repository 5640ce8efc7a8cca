"""`cnnjax data`: a data set's format, classes, counts, sizes and faults, and a contact sheet with boxes drawn."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, PngImagePlugin

from cnnjax.config import user_path
from cnnjax.data import assemble, canvases, decode, detection, folders, formats, sources
from cnnjax.data.holdout import TEST_SHARE
from cnnjax.data.sets import Listing
from cnnjax.errors import UserError
from cnnjax.reporting import boxes, tables

THUMBNAIL = (192, 256)      # height and width
COLUMNS, ROWS = 6, 4        # of the contact sheet
_OURS = "cnnjax data"       # in the text of a sheet, which may be replaced by another


class Split(NamedTuple):
    """One split: `sizes` (N, 2) height and width, `counts` (C,) images or objects of each class, `empty` images without
    an object (0 for classification)."""

    sizes: np.ndarray
    counts: np.ndarray
    empty: int


class Survey(NamedTuple):
    """All that is found of a data set. `pictures` are thumbnails spread over splits and classes."""

    path: str
    task: str
    source: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    skipped: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    pictures: list[np.ndarray]


def survey(path: str, task: str = "", source: str = "auto") -> Survey:
    """Reads all of the data set at `path`, for `task` "classify" or "detect"; "" is the one that its files are for.

    Raises UserError where no format is known or nothing can be read; a faulty image or box is listed.
    """
    task = task or formats.guess_task(path)
    source, _ = formats.resolve(source, path, task)
    return (_detection if task == "detect" else _classification)(path, source)


def _detection(path: str, source: str) -> Survey:
    if source not in detection.READERS:
        raise UserError(f"--source: found {source!r}, expected one of auto, {', '.join(detection.READERS)}")
    sets, classes, faults = detection.read_all(source, path)
    splits, pictures = {}, []
    for name, images in sets.items():
        counts = np.zeros(len(classes), int)
        for objects in images.objects:
            counts += np.bincount(objects.classes, minlength=len(classes))
        splits[name] = Split(images.sizes, counts, sum(not len(objects.classes) for objects in images.objects))
        labels = [int(objects.classes[0]) if len(objects.classes) else -1 for objects in images.objects]
        for i in _spread(labels, COLUMNS * ROWS // len(sets)):
            objects = images.objects[i]
            pictures.append(_thumbnail(images.read(i), objects.boxes, [classes[c] for c in objects.classes],
                                       [boxes.COLOURS[c % len(boxes.COLOURS)] for c in objects.classes]))
    skipped, unused, notes = (tuple(dict.fromkeys(lines)) for lines in (faults.skipped, faults.unused, faults.notes))
    return _checked(Survey(path, "detect", source, classes, splits, skipped, unused, notes, pictures))


def _classification(path: str, source: str) -> Survey:
    if source == "idx":
        return _arrays(path, source)
    splits, pictures, skipped = {}, [], []
    with _opened(source, path) as (listing, read, where):
        for name, kinds in listing.files.items():
            names = [file for files in kinds.values() for file in files]
            labels = np.repeat(np.arange(len(kinds)), [len(files) for files in kinds.values()])
            sizes = _sizes(names, read)
            whole = [i for i, size in enumerate(sizes) if not isinstance(size, str)]
            skipped += [f"{where}/{file}: {size}" for file, size in zip(names, sizes, strict=True)
                        if isinstance(size, str)]
            splits[name] = Split(np.array([sizes[i] for i in whole]).reshape(-1, 2),
                                 np.bincount(labels[whole], minlength=len(kinds)), 0)
            for i in _spread([int(labels[i]) for i in whole], COLUMNS * ROWS // len(listing.files)):
                image = decode.decode(read(names[whole[i]]), names[whole[i]])
                pictures.append(_thumbnail(image, np.zeros((1, 4)), [listing.classes[labels[whole[i]]]]))
    return _checked(Survey(path, "classify", source, listing.classes, splits, tuple(skipped), listing.left_out,
                           listing.notes, pictures))


@contextlib.contextmanager
def _opened(source: str, path: str) -> Iterator[tuple[Listing, Callable[[str], bytes], str]]:
    """The files of a folder, table or tar, a function that reads one, and what their names are relative to."""
    if source == "tar":
        file = user_path(path)
        with folders.open_tar(file) as (listing, read):
            yield listing, read, str(file)
    elif source in folders.LISTINGS:
        base, listing = folders.LISTINGS[source](path)
        yield listing, lambda name: decode.read_file(base / name), str(base)
    else:
        raise UserError(f"--source: found {source!r}, expected one of auto, idx, tar, {', '.join(folders.LISTINGS)}")


def _sizes(names: Sequence[str], read: Callable[[str], bytes]) -> list[tuple[int, int] | str]:
    """(height, width) of each image when upright, or the reason why it cannot be read."""
    def one(name: str) -> tuple[int, int] | str:
        try:
            return assemble.probe(read(name))[0]
        except decode.BadImage as error:
            return f"unreadable image ({error})"
    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, names))


def _arrays(path: str, source: str) -> Survey:
    read = sources.SOURCES[source](ConfigDict({"path": path, "image_size": 0, "on_error": "skip", "cache": ""}))
    splits, pictures = {}, []
    for name, (images, labels) in read.splits.items():
        splits[name] = Split(np.tile(images.shape[1:3], (len(images), 1)),
                             np.bincount(labels, minlength=len(read.classes)), 0)
        for i in _spread(labels.tolist(), COLUMNS * ROWS // len(read.splits)):
            image = np.broadcast_to(images[i], (*images.shape[1:3], 3))
            pictures.append(_thumbnail(image, np.zeros((1, 4)), [read.classes[labels[i]]]))
    return Survey(path, "classify", source, read.classes, splits, (), read.left_out, read.notes, pictures)


def _checked(found: Survey) -> Survey:
    """Raises UserError where nothing at all could be read."""
    if not any(len(split.sizes) for split in found.splits.values()):
        why = f"; the first fault: {found.skipped[0]}" if found.skipped else ""
        raise UserError(f"data.path {found.path}: no image can be read{why}")
    return found


def _spread(labels: Sequence[int], count: int) -> list[int]:
    """Up to `count` indices, of each label in turn."""
    turns: dict[int, int] = {}
    order = []
    for i, label in enumerate(labels):
        turns[label] = turns.get(label, 0) + 1
        order.append((turns[label], label, i))
    return [i for *_, i in sorted(order)[:count]]


def _thumbnail(image: np.ndarray, drawn: np.ndarray, labels: Sequence[str], colours: Sequence[str] = ()) -> np.ndarray:
    """The image brought to the size of `THUMBNAIL`, with boxes in its own pixels drawn on it."""
    picture, size = canvases.place(image, THUMBNAIL)
    drawn = canvases.rescale_boxes(drawn, image.shape[:2], size)
    return boxes.draw(picture[:size[0], :size[1]], drawn, labels, colours or ["#333333"] * len(labels), min_side=1)


def as_json(found: Survey) -> dict[str, Any]:
    """The survey as JSON can hold it, without the pictures."""
    return {"path": found.path, "task": found.task, "source": found.source, "classes": found.classes, "splits": {
        name: {"images": len(split.sizes), "without_objects": split.empty,
               "counts": dict(zip(found.classes, split.counts.tolist(), strict=True)),
               "sizes": _size_range(split.sizes)} for name, split in found.splits.items()},
        "skipped": found.skipped, "unused": found.unused, "notes": found.notes}


def _size_range(sizes: np.ndarray) -> dict[str, Any]:
    """Width and height of the smallest, the middle and the largest image by area, and how many sizes there are."""
    if not len(sizes):
        return {}
    order = np.argsort(sizes.prod(1), kind="stable")
    places = {"smallest": order[0], "middle": order[len(order) // 2], "largest": order[-1]}
    return {**{name: sizes[i, ::-1].tolist() for name, i in places.items()},
            "different": len(np.unique(sizes, axis=0))}


def show(found: Survey, lines: int = 10) -> None:
    """Prints the survey: tables of splits and classes, then up to `lines` faults and things not used."""
    detects = found.task == "detect"
    what = "boxes" if detects else "classes of images"
    print(f"{found.path}: {what}, data.source={found.source}; classes: {len(found.classes)}")
    rows = []
    for name, split in found.splits.items():
        sizes = _size_range(split.sizes)
        rows.append([name or "(no splits)", f"{len(split.sizes):,}",
                     *([f"{split.counts.sum():,}", f"{split.empty:,}"] if detects else []),
                     *("x".join(map(str, sizes.get(key, "-"))) for key in ("smallest", "middle", "largest")),
                     str(sizes.get("different", 0))])
    tables.show(("split", "images", *(("objects", "without objects") if detects else ()), "smallest", "middle",
                 "largest", "different sizes"), rows)
    tables.show(("class", *(f"{name or 'all'}" for name in found.splits)),
                [[kind, *(f"{split.counts[c]:,}" for split in found.splits.values())]
                 for c, kind in enumerate(found.classes)], title="objects" if detects else "images")
    if list(found.splits) == [""]:
        print(f"no splits: a run holds {TEST_SHARE:g} of the images out for testing, drawn by its seed "
              "(data.test_share)")
    for line in found.notes:
        print(line)
    for title, items in (("faulty (data.on_error=skip leaves them out)", found.skipped), ("not used", found.unused)):
        print(f"{len(items)} {title}{':' * bool(items)}")
        for line in items[:lines]:
            print(f"  {line}")
        if len(items) > lines:
            print(f"  ... and {len(items) - lines} more")


def write_sheet(found: Survey, out: Path) -> Path:
    """Writes the contact sheet as `out`, a PNG, or into the folder `out`. Raises UserError before it replaces a file
    that is no contact sheet."""
    path = out if out.suffix.lower() == ".png" and not out.is_dir() else out / "contact_sheet.png"
    if path.exists():
        try:
            ours = Image.open(path).info.get("Software") == _OURS
        except OSError:
            ours = False
        if not ours:
            raise UserError(f"--out {out}: {path} is no contact sheet of ours and is not written over; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", _OURS)
    rows = [found.pictures[i:i + COLUMNS] for i in range(0, len(found.pictures), COLUMNS)]
    Image.fromarray(boxes.grid(rows)).save(path, pnginfo=text)
    return path
