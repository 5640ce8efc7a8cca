"""Whether the data keeps the training step fed: `cnnjax bench data`."""

import copy
import tempfile
import time
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification
from cnnjax import data as datasets
from cnnjax.data import streaming
from cnnjax.training import loop, optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps
from cnnjax.training.task import Stream

HEADER = ("what", "seconds", "images/s")


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows as text under `HEADER`."""
    return [[r["what"], f"{r['seconds']:.3f}", f"{r['images_per_second']:.1f}" if "images_per_second" in r else
             f"{100 * r['share']:.1f} % of the time"] for r in rows]


def run(config: ConfigDict, repeats: int = 9) -> list[dict[str, Any]]:
    """Rates of the data of a config beside those of its training step, over `repeats` batches each.

    A set that fits on the device is read into an empty cache, then from it, and its batches are shuffled, cropped and
    flipped without a step. A streamed one (`data.streamed`) gives the rate of the workers alone, of the step alone and
    of both, and the share of the time that the step waited. Raises UserError as `cnnjax train` does.
    """
    classification.check(config)
    each = copy.deepcopy(config)
    each.steps_per_dispatch = 1
    return _streamed(each, repeats) if config.data.streamed else _on_device(each, repeats)


def _on_device(config: ConfigDict, repeats: int) -> list[dict[str, Any]]:
    rows = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        source = copy.deepcopy(config.data)
        source.cache = folder
        for what in ("read into an empty cache", "read from the cache"):
            began = time.perf_counter()
            dataset = datasets.load(source, config.seed)
            seconds = time.perf_counter() - began
            count = sum(len(split.labels) for split in dataset[:3] if split is not None)
            rows.append({"what": what, "seconds": seconds, "images_per_second": count / seconds})
        task = classification.task(config, dataset)
        train, next_data = loop.program(config, task, stack)
        data = next_data(1)

    batch = steps.batch_of_each_device(task.get_batch)
    state = steps.replicate(states.create(config, task.init))
    jax.block_until_ready(batch(state, data))
    alone, whole = [], []
    for _ in range(repeats + 1):                    # the first step compiles
        began = time.perf_counter()
        jax.block_until_ready(batch(state, data))
        alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        state, metrics = train(state, data, 1)
        jax.block_until_ready(metrics)
        whole.append(time.perf_counter() - began)
    for what, seconds in (("shuffle, crop, flip and normalise a batch", median(alone[1:])),
                          ("training step, with that", median(whole[1:]))):
        rows.append({"what": what, "seconds": seconds, "images_per_second": config.batch_size / seconds})
    return rows


def _streamed(config: ConfigDict, repeats: int) -> list[dict[str, Any]]:
    task = classification.task(config)
    data = task.data()
    assert isinstance(data, Stream)
    state = steps.replicate(states.create(config, task.init))
    train = steps.train_dispatch(task.loss, optimizers.optimizer(config), task.get_batch, 1, on_device=False)

    def step(batch: dict[str, np.ndarray]) -> Any:
        nonlocal state
        state, metrics = train(state, jax.tree.map(lambda x: x[None], steps.shard(batch, jax.local_device_count())), 1)
        return metrics

    batches: Any = data.batches(0, 0, 1)
    with closing(batches):
        rates = streaming.measure(batches, step, repeats)
    rows = [{"what": what, "seconds": config.batch_size / rate, "images_per_second": rate} for what, rate in
            (("decode and crop a batch", rates.data), ("training step", rates.step), ("both", rates.both))]
    return [*rows, {"what": "waiting for data", "share": rates.waiting,
                    "seconds": rates.waiting * config.batch_size / rates.both}]
