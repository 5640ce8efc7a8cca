"""What the training loop costs beside the bare compiled step: `cnnjax bench loop`."""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification
from cnnjax import data as datasets
from cnnjax.training import loop
from cnnjax.training import state as states
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs

HEADER = ("what", "images/s", "ratio")


class Program:
    """What `cnnjax train` runs: `dispatch` makes `length` steps from `state`, on the batches that `take` gives."""

    def __init__(self, config: ConfigDict, dataset: classification.Images, *, resident: bool, length: int) -> None:
        module = classification.create_model(config, len(dataset.classes))
        self.init = classification.init_function(module, dataset)
        self.loss_fn = classification.loss_function(module)
        self.take = classification.take_function(config, dataset, resident=resident)
        self.dispatch = steps.train_dispatch(self.loss_fn, states.optimizer(config), self.take, length,
                                             resident=resident, ema_decay=config.optimizer.ema,
                                             accumulate=config.optimizer.accumulate)
        self.state = steps.replicate(states.create(config, self.init))


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows as text under `HEADER`."""
    return [[r["what"], f"{r['images_per_second']:.1f}", f"{r['ratio']:.3f}"] for r in rows]


def run(config: ConfigDict, repeats: int = 5) -> list[dict[str, Any]]:
    """Rates of the bare step and of the whole loop, measured in turn `repeats` times; the medians and their ratio.

    The bare step is the loop's own program called again and again; the loop writes its rows and checkpoints beside it.
    A repeat is `config.steps` steps of each.
    """
    classification.check(config)
    dataset = datasets.load(config.data, config.seed)
    resident = {"image": np.asarray(dataset.train.images), "label": dataset.train.labels}
    length = min(config.steps_per_dispatch, config.steps)
    program = Program(config, dataset, resident=True, length=length)
    dispatch, state = program.dispatch, program.state
    data = steps.replicate(resident)
    state, metrics = dispatch(state, data, length)          # compiles
    jax.block_until_ready(metrics)

    bare, whole = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(config.steps // length):
            state, metrics = dispatch(state, data, length)
        jax.block_until_ready(metrics)
        bare.append(config.steps * config.batch_size / (time.perf_counter() - began))
        with tempfile.TemporaryDirectory() as folder:
            loop.fit(config, Path(folder), init=program.init, loss_fn=program.loss_fn, take=program.take,
                     resident=resident, name="loop")
            rows = workdirs.read_rows(Path(folder) / workdirs.TIMING)
        # The first row's time is the compilation's; the last row is written together with the one before it.
        seconds = rows[-2]["seconds"] - rows[0]["seconds"]
        whole.append((rows[-2]["step"] - rows[0]["step"]) * config.batch_size / seconds)
    ratio = float(np.median(whole) / np.median(bare))
    return [{"what": "bare step", "images_per_second": float(np.median(bare)), "ratio": 1.0},
            {"what": "training loop", "images_per_second": float(np.median(whole)), "ratio": ratio}]
