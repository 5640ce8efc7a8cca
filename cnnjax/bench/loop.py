"""What the training loop costs beside the bare compiled step: `cnnjax bench loop`."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification, classifier
from cnnjax.training import loop
from cnnjax.training import state as states
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs

HEADER = ("what", "images/s", "ratio")


class _WithoutEvaluation(classifier.Classifier):
    """A classifier of which only the training is run."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ()


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows as text under `HEADER`."""
    return [[r["what"], f"{r['images_per_second']:.1f}", f"{r['ratio']:.3f}"] for r in rows]


def run(config: ConfigDict, repeats: int = 5) -> list[dict[str, Any]]:
    """Rates of the bare step and of the whole loop, measured in turn `repeats` times; the medians and their ratio.

    The bare step is the loop's own program called again and again; the loop writes its rows and checkpoints beside it.
    A repeat is `config.steps` steps of each.
    """
    made = classification.task(config)
    task = _WithoutEvaluation(config, made.module, made.dataset)
    length = min(config.steps_per_dispatch, config.steps)
    bare, whole = [], []
    stack = ExitStack()
    train, next_data = loop.program(config, task, stack)
    state, metrics = train(steps.replicate(states.create(config, task.init)), next_data(length), length)    # compiles
    jax.block_until_ready(metrics)
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(config.steps // length):
            state, metrics = train(state, next_data(length), length)
        jax.block_until_ready(metrics)
        bare.append(config.steps * config.batch_size / (time.perf_counter() - began))
        with tempfile.TemporaryDirectory() as folder:
            loop.fit(config, Path(folder), task, name="loop")
            rows = workdirs.read_rows(Path(folder) / workdirs.TIMING)
        # The first row's time is the compilation's; the last row is written together with the one before it.
        seconds = rows[-2]["seconds"] - rows[0]["seconds"]
        whole.append((rows[-2]["step"] - rows[0]["step"]) * config.batch_size / seconds)
    stack.close()
    ratio = float(np.median(whole) / np.median(bare))
    return [{"what": "bare step", "images_per_second": float(np.median(bare)), "ratio": 1.0},
            {"what": "training loop", "images_per_second": float(np.median(whole)), "ratio": ratio}]
