"""What a sweep can train: a classifier or a detector. No other part of a sweep tells them apart."""

import contextlib
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification, detection
from cnnjax import config as configs
from cnnjax.classifier import Images
from cnnjax.errors import UserError
from cnnjax.training import run as runs
from cnnjax.training import workdir as workdirs
from cnnjax.training.task import OnEval

from . import ladder


class Trainable(NamedTuple):
    """What a config trains: the score to choose by and which end of it is better, "min" or "max"; and
    `train(folder, on_eval)`, which tells `on_eval(step, scores)` each evaluation and returns the numbers at the end.
    """

    best: tuple[str, str]
    train: Callable[[Path, OnEval], dict[str, Any]]


def trainable(config: ConfigDict) -> Trainable:
    """What a config trains, checked. Raises UserError for a config that cannot be run."""
    check_fields(config)
    if "detectors" in config:
        return Trainable(("validation_map", "max"), functools.partial(_train_detector, config))
    dataset = _images(configs.dump(ConfigDict({"data": config.data, "seed": config.seed})))
    if isinstance(dataset, UserError):
        raise dataset
    task = classification.task(config, dataset)
    assert task.best is not None
    return Trainable(task.best, lambda folder, on_eval: runs.run(config, folder, task, on_eval=on_eval))


def check_fields(config: ConfigDict) -> None:
    """The checks that need no data. Raises UserError for a config that cannot be run, or has nothing to choose by."""
    if "detectors" in config:
        ladder.check(config)
        if len(config.detectors) != 1:
            raise UserError(f"config field 'detectors': found {config.detectors}; a trial of a sweep is one detector")
        name, = config.detectors
        if not getattr(detection.create(name, 1), "scored_in_training", True):
            raise UserError(f"config field 'detectors': found {name!r}, which is no detector before all its stages are "
                            "done; a sweep needs one that is scored while it is trained")
    else:
        classification.check(config)
        if config.population != 1:
            raise UserError(f"config field 'population': found {config.population}; a trial of a sweep is one network")
    if not (config.data.validation or config.data.get("validation_split")):
        raise UserError("config field 'data.validation': found 0; a sweep chooses by a score on images held out of the "
                        "training split, so set how many")


def training_of(config: ConfigDict) -> ConfigDict:
    """The part of a config that has the steps, the evaluations and the optimizer."""
    return config[config.detectors[0]].training if "detectors" in config else config


def _train_detector(config: ConfigDict, folder: Path, on_eval: OnEval) -> dict[str, Any]:
    """A ladder of one detector, whose report is not printed; the score is that of the checkpoint that is kept."""
    with contextlib.redirect_stdout(io.StringIO()):
        ladder.run(config, folder, on_eval)
    cell = folder / "cells" / config.detectors[0]
    result = json.loads((cell / "result.json").read_text())
    scores = [row["map"] for row in workdirs.read_rows(cell / workdirs.METRICS) if row["split"] == "validation"]
    return {"validation_map": float(np.nanmax(scores)), "test_map": result["map"], "seconds": result["seconds"]}


@functools.lru_cache(1)
def _images(config: str) -> Images | UserError:
    """The images of the JSON of a config's `data` and `seed`, or why it cannot be read: looked at once for all trials
    that share it."""
    try:
        return classification.load_data(configs.from_json(config))
    except UserError as error:
        return error
