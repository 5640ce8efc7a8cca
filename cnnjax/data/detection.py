"""Annotated images for detection: one layout of objects, images in a few static sizes, batches by step number.

Whatever the source (`voc`, `tfds`, `coco`, `scatter`), boxes are `(x1, y1, x2, y2)`, float32, continuous pixel
coordinates from the upper left corner of the upright image. What is wrong with an image or a box is refused by file
name and reason, or skipped, counted and listed, as `data.on_error` says.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from cnnjax.data import decode
from cnnjax.errors import UserError, one_line

Batch = dict[str, np.ndarray]


class Objects(NamedTuple):
    """The annotated objects of one image."""

    boxes: np.ndarray           # (G, 4) float32, in pixels of the image as it was read
    classes: np.ndarray         # (G,) int32, from 0
    difficult: np.ndarray       # (G,) bool: neither trained on nor counted in evaluation
    truncated: np.ndarray       # (G,) bool: cut by the border or hidden in part

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, int, bool, bool]]) -> "Objects":
        """From rows of (box, class, difficult, truncated)."""
        boxes, classes, difficult, truncated = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(classes, np.int32),
                   np.asarray(difficult, bool), np.asarray(truncated, bool))


@dataclass(frozen=True)
class DetectionSet:
    """Annotated images. `read(i)` gives image i as uint8 (H, W, 3)."""

    names: tuple[str, ...]
    sizes: np.ndarray                       # (N, 2) int: height and width
    objects: tuple[Objects, ...]
    read: Callable[[int], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)


class DetectionData(NamedTuple):
    """The two splits of a detection data set; `skipped` has one line for each image or box left out, and for each class
    whose objects are."""

    train: DetectionSet
    test: DetectionSet
    classes: tuple[str, ...]
    skipped: tuple[str, ...]


class Faults:
    """What to do with a faulty image or box: stop with UserError, or skip and keep a line of it."""

    def __init__(self, on_error: str) -> None:
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error: found {on_error!r}, expected 'stop' or 'skip'")
        self.on_error = on_error
        self.skipped: list[str] = []

    def found(self, file: str | Path, reason: str) -> None:
        """Raises UserError naming file and reason, or notes that they were skipped."""
        if self.on_error == "stop":
            raise UserError(f"{file}: {reason}; mend the file or set data.on_error=skip")
        self.skipped.append(f"{file}: {reason}")

    def left_out(self, line: str) -> None:
        """Notes what is left out whatever `on_error` says, since nothing is wrong with it."""
        self.skipped.append(line)


def load(config: Any, seed: int) -> DetectionData:
    """The data set that `config` (the `data` group of an experiment's config) names by its `source`.

    Raises UserError for an unknown source, a missing path or split, and, with `on_error="stop"`, the first fault.
    """
    from cnnjax.data import coco, scatter, voc  # they import this module

    if config.source == "scatter":
        train = scatter.scatter("train", config.train_images, config.size, seed)
        test = scatter.scatter("test", config.test_images, config.size, seed)
        return DetectionData(train, test, scatter.CLASSES, ())
    faults = Faults(config.on_error)
    if config.source == "voc":
        train, test, classes = voc.read(config.path, config.train_split, config.test_split, config.classes, faults)
    elif config.source == "tfds":
        train, test, classes = voc.read_tfds(config.path, config.train_split, config.test_split, faults)
    elif config.source == "coco":
        train, test, classes = coco.read(config.path, config.train_split, config.test_split, config.classes, faults)
    else:
        raise UserError(f"data.source: found {config.source!r}, expected 'scatter', 'voc', 'tfds' or 'coco'")
    for images, split in ((train, config.train_split), (test, config.test_split)):
        if not len(images):
            raise UserError(f"data.path {config.path}: no usable image in split {split!r}")
        if all(objects.difficult.all() for objects in images.objects):
            raise UserError(f"data.path {config.path}: no object of {', '.join(classes) or 'any class'} in split "
                            f"{split!r}, but for difficult ones: nothing to train on or to count; name other splits or "
                            "data.classes")
    return DetectionData(train, test, classes, tuple(faults.skipped))


# Images

def read_image(path: Path, upright: bool = True) -> np.ndarray:
    """An image file as uint8 (H, W, 3), turned as its orientation says if `upright`. Raises UserError."""
    name = str(path)
    return np.asarray(decode.to_rgb(decode.open_header(decode.read_file(path), name), name, upright))


def probe(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the upright image and as stored, after decoding all of the file's data.

    Raises OSError with the reason when the file is missing, no image or cut short.
    """
    with Image.open(path, formats=("JPEG", "PNG")) as file:
        if file.width * file.height > decode.MAX_PIXELS:
            raise OSError(f"{file.width}x{file.height} pixels, more than {decode.MAX_PIXELS:,}")
        stored = file.height, file.width
        turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        file.draft("RGB", (max(1, file.width // 8), max(1, file.height // 8)))      # JPEG: all the data, few pixels
        file.load()
    return (stored[::-1] if turned else stored), stored


def probe_all(paths: Sequence[Path]) -> list[tuple[tuple[int, int], tuple[int, int]] | str]:
    """`probe` of each file, or the reason why it cannot be read."""
    def one(path: Path) -> Any:
        try:
            return probe(path)
        except FileNotFoundError:
            return "no such image file"
        except decode.BROKEN as error:
            return f"unreadable image ({one_line(error)})"

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, paths))


def usable_box(box: Sequence[float], height: int, width: int) -> list[float] | str:
    """The box clipped to the image, or the reason why it is none: not finite, reversed, empty or outside."""
    x1, y1, x2, y2 = map(float, box)
    if not np.isfinite(box).all():
        return f"box {tuple(box)} is not finite"
    if x2 < x1 or y2 < y1:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is reversed"
    if x2 == x1 or y2 == y1:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area"
    clipped = [min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height)]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the image of {width}x{height}"
    return clipped


class Entry(NamedTuple):
    """One image as an annotation file has it."""

    image: Path
    annotation: Path
    size: tuple[int, int] | None                                # height and width, where the annotation gives them
    objects: Sequence[tuple[str, Sequence[float], bool, bool]]  # name, continuous box, difficult, truncated


def assemble(entries: Sequence[Entry], classes: Sequence[str], faults: Faults) -> DetectionSet:
    """The set of all images that can be read, with their usable boxes of the given classes.

    An image that its EXIF tag turns is turned, unless the annotation gives the size of the image as it is stored.
    """
    kept: list[Path] = []
    sizes, objects, upright = [], [], []
    others: Counter[str] = Counter()
    for entry, probed in zip(entries, probe_all([e.image for e in entries]), strict=True):
        if isinstance(probed, str):
            faults.found(entry.image, probed)
            continue
        turned, stored = probed
        height, width = size = stored if entry.size == stored else turned
        if entry.size not in (None, size):
            faults.found(entry.image, f"the image is {width}x{height}, its annotation has another size")
            continue
        rows = []
        for name, corners, difficult, truncated in entry.objects:
            if name in classes:
                box = usable_box(corners, height, width)
                if isinstance(box, str):
                    faults.found(entry.annotation, f"{name} {box}")
                else:
                    rows.append((box, classes.index(name), difficult, truncated))
            else:
                others[name] += 1
        kept.append(entry.image)
        sizes.append(size)
        objects.append(Objects.of(rows))
        upright.append(size == turned)
    for name, count in sorted(others.items()):
        where = entries[0].annotation.parent
        faults.left_out(f"{where}: {count} object{'s' * (count > 1)} of {name!r}, which is none of the classes "
                        f"{', '.join(classes)}")
    return DetectionSet(tuple(p.name for p in kept), np.array(sizes).reshape(-1, 2), tuple(objects),
                        lambda i: read_image(kept[i], upright[i]))


# Static sizes

def choose_canvas(size: Sequence[int], canvases: Sequence[tuple[int, int]]) -> int:
    """The index of the canvas on which an image of that size is largest. Sizes are (height, width).

    With canvases (600, 1000) and (1000, 600) the scale is that of Fast R-CNN: short side 600, long side at most 1000.
    """
    return max(range(len(canvases)), key=lambda i: min(canvases[i][0] / size[0], canvases[i][1] / size[1]))


def place(image: np.ndarray, canvas: tuple[int, int], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The image scaled to fit the upper left of a canvas, the rest of which is 0.

    `scale` in (0, 1] makes it smaller than the canvas allows. Returns the canvas (H, W, 3) uint8 and the (height,
    width) int32 that the image takes on it.
    """
    height, width = image.shape[:2]
    factor = scale * min(canvas[0] / height, canvas[1] / width)
    h, w = (max(1, min(c, round(n * factor))) for c, n in zip(canvas, (height, width), strict=True))
    if (h, w) != (height, width):
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    out = np.zeros((*canvas, 3), np.uint8)
    out[:h, :w] = image
    return out, np.array([h, w], np.int32)


def rescale_boxes(boxes: np.ndarray, old: Any, new: Any) -> np.ndarray:
    """Boxes (..., 4) of an image of (height, width) `old` on the same image of (height, width) `new`."""
    y, x = new[0] / old[0], new[1] / old[1]
    return (boxes * np.array([x, y, x, y])).astype(np.float32)


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes (..., 4) of an image mirrored left to right."""
    return np.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], -1)


# Batches

class Batches:
    """Training batches as a pure function of the step number: `batches(step)`, or `batches.stream(step)` ahead of time.

    A batch has N images of one canvas: `images` (N, H, W, 3) uint8, `sizes` (N, 2) int32 the height and width that the
    image takes on its canvas, `boxes` (N, G, 4), `classes` (N, G), `difficult` (N, G), `valid` (N, G); G is the
    greatest number of objects of the set, rounded up to a multiple of 8; unused rows are zeros with `valid` False.
    With `proposals`, one (P_i, 4) array an image in its own pixels, also `proposals` (N, P, 4) and
    `proposals_valid` (N, P).
    The images of a canvas are visited once an epoch, in an order of its own; the last batch of an epoch is filled with
    its first images. `steps_per_canvas` consecutive steps, those of one dispatch, share a canvas, which is drawn from
    the seed and their block alone; over as many epochs every canvas has its due share of the steps.
    """

    cache_bytes = 1 << 30

    def __init__(self, data: DetectionSet, canvases: Sequence[tuple[int, int]], batch_size: int, seed: int, *,
                 flip: bool = False, jitter: float = 1.0, proposals: Sequence[np.ndarray] | None = None,
                 steps_per_canvas: int = 1) -> None:
        if not 0 < jitter <= 1:
            raise UserError(f"data.jitter: found {jitter}, expected the smallest scale, over 0 and at most 1")
        self.data, self.canvases, self.batch_size, self.seed = data, [(c[0], c[1]) for c in canvases], batch_size, seed
        self.flip, self.jitter, self.proposals = flip, jitter, proposals
        most = max(len(o.classes) for o in data.objects)
        self.max_objects = max(8, -(-most // 8) * 8)
        self.max_proposals = max(map(len, proposals)) if proposals is not None else 0
        self.canvas_of = np.array([choose_canvas(size, self.canvases) for size in data.sizes])
        groups = [np.flatnonzero(self.canvas_of == c) for c in range(len(self.canvases))]
        self.groups = [group for group in groups if len(group)]
        self.steps_per_epoch = [-(-len(group) // batch_size) for group in self.groups]      # of each group
        self.steps_per_canvas = steps_per_canvas
        self._cache: dict[int, np.ndarray] = {}
        self._room = self.cache_bytes

    def indices(self, step: int) -> np.ndarray:
        """The images (N,) of a step, all of one canvas."""
        block, offset = divmod(step, self.steps_per_canvas)
        # As many blocks as an epoch has steps are that many epochs, whatever the length of a block.
        cycle, turn = divmod(block, sum(self.steps_per_epoch))
        canvases = np.repeat(np.arange(len(self.groups)), self.steps_per_epoch)
        canvases = np.random.default_rng([self.seed, 5, cycle]).permutation(canvases)
        g = int(canvases[turn])
        blocks_before = cycle * self.steps_per_epoch[g] + int(np.count_nonzero(canvases[:turn] == g))
        epoch, position = divmod(blocks_before * self.steps_per_canvas + offset, self.steps_per_epoch[g])
        rng = np.random.default_rng((self.seed, 0, epoch, g))
        order = np.resize(rng.permutation(self.groups[g]), self.steps_per_epoch[g] * self.batch_size)
        return order.reshape(-1, self.batch_size)[rng.permutation(self.steps_per_epoch[g])[position]]

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 1, step])
        rows = [self._example(i, bool(self.flip and rng.random() < 0.5), rng.uniform(self.jitter, 1))
                for i in self.indices(step)]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def _example(self, i: int, flip: bool, scale: float) -> Batch:
        image, size = place(self._read(i), self.canvases[self.canvas_of[i]], scale)
        objects = self.data.objects[i]

        def moved(boxes: np.ndarray, rows: int) -> np.ndarray:
            boxes = rescale_boxes(boxes, self.data.sizes[i], size)
            return _pad(flip_boxes(boxes, float(size[1])) if flip else boxes, rows)

        if flip:
            image[:, : size[1]] = image[:, : size[1]][:, ::-1].copy()
        count = self.max_objects
        example = {"images": image, "sizes": size, "boxes": moved(objects.boxes, count),
                   "classes": _pad(objects.classes, count), "difficult": _pad(objects.difficult, count),
                   "valid": np.arange(count) < len(objects.classes)}
        if self.proposals is not None:
            example["proposals"] = moved(self.proposals[i], self.max_proposals)
            example["proposals_valid"] = np.arange(self.max_proposals) < len(self.proposals[i])
        return example

    def _read(self, i: int) -> np.ndarray:
        image = self._cache.get(i)
        if image is None:
            image = self.data.read(i)
            if self._room >= image.nbytes:
                self._room -= image.nbytes
                self._cache[i] = image
        return image

    def stream(self, step: int = 0) -> Iterator[Batch]:
        """The batches from `step` on, made some steps ahead."""
        return ahead_of_time(self, step)


def ahead_of_time(batch: Callable[[int], Batch], step: int) -> Iterator[Batch]:
    """`batch(step)`, `batch(step + 1)`, ..., made by two threads up to four steps ahead."""
    with ThreadPoolExecutor(2) as pool:
        ahead: list[Future[Batch]] = []
        while True:
            while len(ahead) < 4:
                ahead.append(pool.submit(batch, step))
                step += 1
            yield ahead.pop(0).result()


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out


def content_key(image: np.ndarray) -> str:
    """A name for an image by its pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
