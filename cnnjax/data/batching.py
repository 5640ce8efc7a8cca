"""Batches of classification images: gathered on the device, or streamed from a memory-mapped file.

Both ways give the batch of a step as a pure function of (key, step), and the same one.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cnnjax.data import augment
from cnnjax.data.sets import ImageSet

Batch = dict[str, np.ndarray]


def fits(images: ImageSet, device: jax.Device | None = None, share: float = 0.25) -> bool:
    """Whether a split takes at most `share` of the memory of `device` (by default the first): it may live there."""
    device = device or jax.local_devices()[0]
    stats = device.memory_stats() or {}
    memory = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return images.images.nbytes <= share * memory


class Prefetch:
    """An endless iterator over `make(step)`, `make(step + 1)`, ..., which a thread computes `ahead` results in advance.

    Its whole state is `step`, the step of the result that `next` gives: a new one with that `step` goes on exactly.
    What `make` raises is raised by `next`. `close()`, or leaving a `with` block, ends the thread and calls the `close`
    that was given.
    """

    def __init__(self, make: Callable[[int], Any], step: int = 0, ahead: int = 4,
                 close: Callable[[], None] = lambda: None):
        self.step = step
        self._queue: queue.Queue = queue.Queue(ahead)
        self._closed = threading.Event()
        self._close = close
        self._thread = threading.Thread(target=self._run, args=(make, step), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[int], Any], step: int) -> None:
        failed = False
        while not (failed or self._closed.is_set()):
            try:
                result = make(step)
            except BaseException as error:
                result, failed = error, True
            while not self._closed.is_set():
                try:
                    self._queue.put((result, failed), timeout=0.1)
                    break
                except queue.Full:
                    continue
            step += 1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._closed.is_set():
            raise StopIteration
        result, failed = self._queue.get()
        if failed:
            self.close()
            raise result
        self.step += 1
        return result

    def close(self) -> None:
        """Ends the thread; results not yet taken are dropped."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join()
            self._close()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def stream(images: ImageSet, key: jax.Array, batch_size: int, step: int = 0, *, shard: int = 0, shards: int = 1,
           ahead: int = 4) -> Prefetch:
    """Host batches {"image": uint8 (B, H, W, C), "label": int32 (B,)} from `step` on, those of `augment.get_batch`.

    For sets that do not fit on the device: rows are read from the memory map by a thread. With `shards` each batch is
    the `shard`-th part of the whole one, for a host of several. Leave the step number in a checkpoint to go on from it.
    """
    n = len(images.labels)
    cpu = jax.local_devices(backend="cpu")[0]
    key = jax.device_put(key, cpu)
    indices = jax.jit(lambda key, step: augment.batch_indices(key, step, batch_size, n, shard=shard, shards=shards))

    def read(step: int) -> Batch:
        with jax.default_device(cpu):
            rows = np.asarray(indices(key, np.uint32(step)))
        order = np.argsort(rows)        # from front to back in the file, then back to the order of the batch
        image = np.empty((len(rows), *images.images.shape[1:]), np.uint8)
        image[order] = images.images[rows[order]]
        return {"image": image, "label": images.labels[rows]}

    return Prefetch(read, step, ahead)


def evaluation_batches(images: ImageSet, batch_size: int) -> Iterator[Batch]:
    """The split in order, once: {"image": uint8 (B, H, W, C), "label": int32 (B,), "mask": bool (B,)}.

    Every batch has `batch_size` rows; the last is filled up with zeros where `mask` is False, so that sums weighted by
    the mask count each image exactly once, whatever the batch size.
    """
    n = len(images.labels)
    for start in range(0, n, batch_size):
        count = min(batch_size, n - start)
        image = np.zeros((batch_size, *images.images.shape[1:]), np.uint8)
        label = np.zeros(batch_size, np.int32)
        image[:count], label[:count] = images.images[start:start + count], images.labels[start:start + count]
        yield {"image": image, "label": label, "mask": np.arange(batch_size) < count}
