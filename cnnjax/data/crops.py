"""Crops of photographs of any size for ImageNet's networks, and the worker process that decodes and cuts them.

This module imports neither JAX nor anything that does: a worker starts in under a second and takes little memory.
"""

import math
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnjax.data import decode

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Files:
    """Image files and their labels: `names` bytes (N,) relative to `base`, `labels` int32 (N,).

    Names stand in one array: a million strings would weigh on every worker.
    """

    base: Path
    names: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> tuple[bytes, int, str]:
        """The i-th file's bytes, its label, and what to call it."""
        file = self.base / os.fsdecode(self.names[i])
        return decode.read_file(file), int(self.labels[i]), str(file)


class TfdsRecords:
    """A split of a prepared TFDS set, such as imagenet2012, whose images stay encoded. Opened anew in every process."""

    def __init__(self, name: str, path: str, split: str):
        self._where = name, path, split
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_where": self._where, "_opened": None}

    def _source(self) -> tuple[Any, str, str]:
        if self._opened is None:
            from cnnjax.data import tfds

            name, path, split = self._where
            opened = tfds.open_prepared(name, path)
            source = tfds.undecoded(opened.builder, split, opened.image_key)
            self._opened = source, opened.image_key, opened.label_key
        return self._opened

    def __len__(self) -> int:
        return len(self._source()[0])

    def read(self, i: int) -> tuple[bytes, int, str]:
        """The i-th image's bytes, its label, and what to call it."""
        source, image_key, label_key = self._source()
        where = f"record {i} of {self._where[2]} of {self._where[0]}"
        try:
            record = source[i]
            return record[image_key], int(record[label_key]), where
        except Exception as error:      # whatever the record reader raises for a broken file
            raise decode.BadImage(f"{where} cannot be read: {error}") from None


class Recipe(NamedTuple):
    """What a worker makes of an image: uint8 (size, size, 3), or (10, size, size, 3) with `ten_crop`.

    With `seed` (two words) a random crop, with `flip` mirrored half of the time; otherwise the centre of the image
    whose shorter side is `resize`. With `skip` an image that cannot be decoded is left out: its neighbour takes its
    place, or its row is masked out.
    """

    size: int
    resize: int = 0
    ten_crop: bool = False
    seed: tuple[int, int] | None = None
    skip: bool = False
    flip: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return ((10,) if self.ten_crop else ()) + (self.size, self.size, 3)


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box of 8 % to 100 % of the area and a ratio of 3/4 to 4/3 (Szegedy et al. 2014, section 6): (x1, y1, x2, y2).

    The ratio is drawn evenly in its logarithm. After ten boxes that do not fit, the centre, cut to the nearest ratio.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return x, y, x + w, y + h
    widest, highest = min(width, height * 4 / 3), min(height, width * 4 / 3)
    left, top = (width - widest) / 2, (height - highest) / 2
    return left, top, left + widest, top + highest


def training_crop(data: bytes, name: str, size: int, rng: np.random.Generator, flip: bool = True) -> np.ndarray:
    """A file's bytes to uint8 (size, size, 3): a random box resized (bilinear, antialiased), with `flip` mirrored half
    of the time.

    A JPEG whose box is more than twice too large is decoded at a half, quarter or eighth, which is several times as
    quick. Raises `BadImage` as `decode.open_header` does.
    """
    image = decode.open_header(data, name)
    width, height = decode.upright_size(image, name)
    x1, y1, x2, y2 = random_box(width, height, rng)
    reduced = _reduced(image, max(size / (x2 - x1), size / (y2 - y1)))
    image = decode.to_rgb(reduced, name)
    sx, sy = image.width / width, image.height / height
    crop = image.resize((size, size), Image.Resampling.BILINEAR, (x1 * sx, y1 * sy, x2 * sx, y2 * sy))
    if rng.random() < 0.5 and flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


def evaluation_crop(data: bytes, name: str, size: int, resize: int, ten_crop: bool = False) -> np.ndarray:
    """A file's bytes, its shorter side resized to `resize` (bilinear, antialiased): the centre, uint8 (size, size, 3).

    With `ten_crop` the four corners and the centre, then the same mirrored: (10, size, size, 3) (Krizhevsky et al.
    2012, section 4.1). Raises `BadImage` as `decode.open_header` does.
    """
    image = decode.open_header(data, name)
    image = decode.to_rgb(_reduced(image, resize / min(image.size)), name)
    scale = resize / min(image.size)
    image = image.resize((max(resize, round(image.width * scale)), max(resize, round(image.height * scale))),
                         Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    bottom, right = pixels.shape[0] - size, pixels.shape[1] - size
    corners = [(bottom // 2, right // 2)]
    if ten_crop:
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), *corners]
    crops = np.stack([pixels[y:y + size, x:x + size] for y, x in corners])
    return np.concatenate([crops, crops[:, :, ::-1]]) if ten_crop else crops[0]


def _reduced(image: Image.Image, scale: float) -> Image.Image:
    """Has a JPEG decoded at the least of 1, 1/2, 1/4, 1/8 that is no less than `scale`; Pillow does it in place."""
    image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))    # other formats ignore it
    return image


class Task(NamedTuple):
    """Rows `row`, `row + 1`, ... of the batch in `slot`: the images `indices`, at `position`, ... of the stream."""

    slot: int
    row: int
    position: int
    indices: list[int]


class Done(NamedTuple):
    """What became of a task: labels and mask of its rows, a line for each image left out, or the error."""

    slot: int
    row: int
    labels: list[int]
    mask: list[bool]
    skipped: list[str]
    error: str = ""


def work(connection: Connection, source: Any, recipe: Recipe, memory: Any, slots: int, batch_size: int) -> None:
    """The main loop of a worker process: does each `Task` that comes, until its parent closes the connection or dies.

    `source` has `len()` and `read(i) -> (bytes, label, name)`, as `Files`; `memory` is shared, `slots` batches of
    `batch_size` examples.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C reaches the whole group; the parent ends the workers
    batches = np.frombuffer(memory, np.uint8).reshape(slots, batch_size, *recipe.shape)
    try:
        while (task := connection.recv()) is not None:
            connection.send(do(task, source, recipe, batches[task.slot]))
    except (EOFError, OSError):
        return


def do(task: Task, source: Any, recipe: Recipe, batch: np.ndarray) -> Done:
    """Fills the task's rows of `batch`. What an image becomes depends on the recipe's seed and its position alone."""
    labels, mask, skipped = [], [], []
    for k, first in enumerate(task.indices):
        index, tries = first, 0
        while True:
            try:
                data, label, name = source.read(index)
                if recipe.seed is None:
                    image = evaluation_crop(data, name, recipe.size, recipe.resize, recipe.ten_crop)
                else:
                    rng = np.random.default_rng((*recipe.seed, task.position + k))
                    image = training_crop(data, name, recipe.size, rng, recipe.flip)
                batch[task.row + k] = image
                break
            except decode.BadImage as error:
                if not recipe.skip:
                    return Done(task.slot, task.row, [], [], [], f"{error}; correct or remove it, or set "
                                                                 "data.on_error='skip'")
                skipped.append(str(error))
                label, tries, index = 0, tries + 1, (index + 1) % len(source)
                if recipe.seed is None:
                    batch[task.row + k] = 0
                    break
                if tries == 100:
                    return Done(task.slot, task.row, [], [], [], f"a hundred images in a row cannot be read: {error}")
            except Exception as error:      # the parent must hear of it, whatever it is
                return Done(task.slot, task.row, [], [], [], f"a decoding worker failed: {error!r}")
        labels.append(label)
        mask.append(recipe.seed is not None or tries == 0)
    return Done(task.slot, task.row, labels, mask, skipped)
