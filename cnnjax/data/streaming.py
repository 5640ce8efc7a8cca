"""Stream photographs of any size from disk, at ImageNet's scale: decoded, cropped and flipped by worker processes.

For data sets that are too large to be kept decoded, as `cnnjax.data.load` does. The batch of a step is a pure function
of (key, step): any number of workers gives the same, and a run goes on from its step number alone.
"""

import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.data import augment, folders, formats, statistics, tfds
from cnnjax.data.batching import Batch, Prefetch
from cnnjax.data.crops import Done, Files, Recipe, Task, TfdsRecords, work
from cnnjax.data.holdout import TEST_SHARE
from cnnjax.errors import UserError

_ROWS = 8           # images a task: small enough that workers end together, large enough that messages cost nothing
_SLOTS = 3          # batches in shared memory: one being waited for, two being filled


class Photographs(NamedTuple):
    """A data set left on disk. `train` and `test` have `len()` and `read(i)`, as `crops.Files`."""

    train: Any
    test: Any
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()      # a line for each file that is there and not read
    notes: tuple[str, ...] = ()         # and `split`: as in `cnnjax.data.Dataset`
    split: Mapping[str, tuple[str, ...]] = {}


class Streamed(NamedTuple):
    """What `cnnjax.data.Dataset` is, of photographs that are cropped to `size` pixels as they come."""

    train: Any
    validation: None
    test: Any
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    size: int
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = {}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of what the network is given."""
        return self.size, self.size, 3


def load(config: Any, seed: int = 0) -> Streamed:
    """The photographs of `config.source`, one of `folders.LISTINGS`, "auto" or a TFDS name, cropped to
    `config.image_size`.

    Mean and deviation are those of a thousand of its training images. Where there is no test split one is drawn by
    `seed`. Raises UserError as `open_folder`, `open_tfds`.
    """
    source, notes = formats.resolve(config.source, config.path, "classify")
    photographs = (open_folder(config.path, source, config.get("test_share", TEST_SHARE), seed)
                   if source in folders.LISTINGS else open_tfds(source.removeprefix("tfds:"), config.path))
    mean, std = sample_statistics(photographs.train, config.image_size, on_error=config.on_error)
    return Streamed(photographs.train, None, photographs.test, photographs.classes, mean, std, config.image_size,
                    photographs.left_out, (*notes, *photographs.notes), photographs.split)


def open_folder(path: str, source: str = "folder", test_share: float = TEST_SHARE, seed: int = 0) -> Photographs:
    """The image files that `path` lists, in any of `folders.LISTINGS`, of any sizes. Raises as `folders.listed`."""
    base, listing = folders.listed(source, path, test_share, seed)
    files = {}
    for split, classes in listing.files.items():
        names = [name for group in classes.values() for name in group]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(group) for group in classes.values()])
        files[split] = Files(base, np.array([os.fsencode(name) for name in names]), labels)
    return Photographs(files["train"], files["test"], listing.classes, listing.left_out, listing.notes, listing.split)


def open_tfds(name: str, path: str = "") -> Photographs:
    """The TFDS set `name`, splits train and test (or validation), prepared first if need be. Raises as `tfds.read`."""
    splits, classes = tfds.open_prepared(name, path)[-2:]
    return Photographs(TfdsRecords(name, path, splits["train"]), TfdsRecords(name, path, splits["test"]), classes)


def training_batches(images: Any, key: jax.Array, batch_size: int, size: int = 224, step: int = 0, *, shard: int = 0,
                     shards: int = 1, workers: int = 0, ahead: int = 2, on_error: str = "stop",
                     flip: bool = True) -> Prefetch:
    """Endless batches {"image": uint8 (B, size, size, 3), "label": int32 (B,)} from `step` on, in shuffled epochs.

    Each image is a random-resized crop, with `flip` mirrored half of the time (`crops.training_crop`). `batch_size` is
    over all shards, and B is the part of one. `workers` processes (0: one a core) decode ahead. Close it, or leave its
    `with` block, to end them. With `on_error="skip"` an image that cannot be decoded is replaced by its neighbour, with
    a warning; otherwise `next` raises `UserError`, which names it.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    key = jax.device_put(key, cpu)
    with jax.default_device(cpu):
        seed = tuple(int(word) for word in jax.random.key_data(jax.random.fold_in(key, 1))[:2])
        order = jax.random.fold_in(key, 0)
    n, part = len(images), batch_size // shards
    indices = jax.jit(lambda key, step: augment.batch_indices(key, step, batch_size, n, shard=shard, shards=shards))

    def rows(step: int) -> tuple[int, np.ndarray]:
        with jax.default_device(cpu):
            return step * batch_size + shard * part, np.asarray(indices(order, np.uint32(step)))

    pool = _Pool(images, Recipe(size, seed=(seed[0], seed[1]), skip=on_error == "skip", flip=flip), part,
                 rows, workers)

    def make(step: int) -> Batch:
        batch = pool.batch(step)
        del batch["mask"]
        return batch

    return Prefetch(make, step, ahead, close=pool.close)


def evaluation_batches(images: Any, batch_size: int, size: int = 224, resize: int = 0, *, ten_crop: bool = False,
                       workers: int = 0, on_error: str = "stop") -> Iterator[Batch]:
    """All images in order, once: {"image": uint8 (B, size, size, 3), "label": int32 (B,), "mask": bool (B,)}.

    The centre of the image whose shorter side is `resize` (0: size * 256 / 224), or with `ten_crop` ten crops of it,
    (B, 10, size, size, 3), whose scores are to be averaged. `mask` is False where the last batch is filled up and, with
    `on_error="skip"`, where an image cannot be decoded.
    """
    n, resize = len(images), resize or round(size * 256 / 224)
    if resize < size:
        raise ValueError(f"resize {resize} is smaller than the crop of {size}")
    steps = math.ceil(n / batch_size)

    def rows(step: int) -> tuple[int, np.ndarray]:
        return step * batch_size, np.arange(step * batch_size, min((step + 1) * batch_size, n))

    recipe = Recipe(size, resize, ten_crop, skip=on_error == "skip")
    pool = _Pool(images, recipe, batch_size, rows, workers, steps)
    try:
        for step in range(steps):
            yield pool.batch(step)
    finally:
        pool.close()


def sample_statistics(images: Any, size: int = 224, count: int = 1024, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, as `cnnjax.data.statistics`, over the centres of `count` images spread evenly
    over the split."""
    chosen = _Chosen(images, np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    parts = [batch["image"][batch["mask"]] for batch in evaluation_batches(chosen, 32, size, **options)]
    return statistics(np.concatenate(parts))


@dataclass(frozen=True)
class _Chosen:
    images: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, i: int) -> tuple[bytes, int, str]:
        return self.images.read(int(self.indices[i]))


class _Pool:
    """Worker processes that fill batches in shared memory.

    They are spawned, since forking after JAX has started deadlocks now and then. Each has a pipe of its own: a worker
    sees its parent's death, and the parent a worker's, as the pipe's end, so neither waits for ever or stays behind.
    """

    def __init__(self, source: Any, recipe: Recipe, batch_size: int, rows: Callable[[int], tuple[int, np.ndarray]],
                 workers: int, steps: float = math.inf):
        self._rows, self._steps = rows, steps
        self._next = -1                                     # the next step to hand out
        self._labels = np.zeros((_SLOTS, batch_size), np.int32)
        self._mask = np.zeros((_SLOTS, batch_size), bool)
        self._missing = [0] * _SLOTS                        # tasks not done yet
        self._told: set[str] = set()
        context = multiprocessing.get_context("spawn")
        memory = context.RawArray("B", _SLOTS * batch_size * math.prod(recipe.shape))
        self._images = np.frombuffer(memory, np.uint8).reshape(_SLOTS, batch_size, *recipe.shape)
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(workers or os.cpu_count() or 1):
            ours, theirs = context.Pipe()
            arguments = theirs, source, recipe, memory, _SLOTS, batch_size
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def batch(self, step: int) -> Batch:
        """The batch of `step`; the two after it are being worked on when this returns. Call with step, step + 1, ..."""
        if self._next < step:
            self._next = step
        while self._next < min(step + _SLOTS, self._steps):
            self._hand_out(self._next)
            self._next += 1
        slot = step % _SLOTS
        while self._missing[slot]:
            for connection in wait(self._connections):
                assert isinstance(connection, Connection)
                try:
                    self._take(connection.recv())
                except (EOFError, ConnectionError):
                    raise RuntimeError("a decoding worker died; was it killed for lack of memory?") from None
        return {"image": self._images[slot].copy(), "label": self._labels[slot].copy(),
                "mask": self._mask[slot].copy()}

    def _hand_out(self, step: int) -> None:
        slot = step % _SLOTS
        position, indices = self._rows(step)
        self._images[slot, len(indices):] = 0
        self._labels[slot], self._mask[slot] = 0, False
        starts = range(0, len(indices), _ROWS)
        self._missing[slot] = len(starts)
        for turn, row in enumerate(starts, step * len(starts)):
            task = Task(slot, row, position + row, indices[row:row + _ROWS].tolist())
            try:
                self._connections[turn % len(self._connections)].send(task)
            except ConnectionError:
                raise RuntimeError("a decoding worker died; was it killed for lack of memory?") from None

    def _take(self, done: Done) -> None:
        if done.error:
            raise UserError(done.error)
        rows = slice(done.row, done.row + len(done.labels))
        self._labels[done.slot, rows], self._mask[done.slot, rows] = done.labels, done.mask
        self._missing[done.slot] -= 1
        for line in set(done.skipped) - self._told:
            self._told.add(line)
            warnings.warn(f"image {len(self._told)} skipped: {line}", stacklevel=2)

    def close(self) -> None:
        """Ends the workers."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


class Rates(NamedTuple):
    """Images a second of the data alone, the step alone and both together; the share of time spent waiting for data."""

    data: float
    step: float
    both: float
    waiting: float


def measure(batches: Iterable[Batch], step: Callable[[Batch], Any], count: int = 20) -> Rates:
    """How well `batches` (endless) feed `step`, whose result can be waited for, over `count` batches each way.

    Starting the workers and compiling the step is not counted, nor are the batches that were made ahead.
    """
    stream = iter(batches)
    batch = next(stream)
    size = len(batch["label"])
    for _ in range(2 * _SLOTS):         # what was made ahead is not the rate at which it is made
        next(stream)
    started = time.perf_counter()
    for _ in range(count):
        next(stream)
    data = time.perf_counter() - started

    jax.block_until_ready(step(batch))
    started = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(step(batch))
    alone = time.perf_counter() - started

    for _ in range(2 * _SLOTS):
        next(stream)
    waiting, started = 0.0, time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        batch = next(stream)
        waiting += time.perf_counter() - before
        jax.block_until_ready(step(batch))
    both = time.perf_counter() - started
    return Rates(count * size / data, count * size / alone, count * size / both, waiting / both)
