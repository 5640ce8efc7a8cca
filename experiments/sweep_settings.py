"""The fields of a sweep's config, its samplers and pruners, and the checks before anything is trained."""

from collections.abc import Callable

import optuna
from ml_collections import ConfigDict

from cnnjax import fields
from cnnjax.fields import Field, Fields

from . import launchers
from . import space as spaces
from .space import Space
from .trainable import check_fields, trainable, training_of

SAMPLERS: dict[str, Callable[[ConfigDict, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda options, seed: optuna.samplers.TPESampler(n_startup_trials=options.startup, seed=seed),
    "random": lambda options, seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda options, seed: optuna.samplers.RandomSampler(seed=seed),     # its values are queued with the trials
}
"""By name: functions of `config.sweep` and a seed that is the trial's own."""

PRUNERS: dict[str, Callable[[ConfigDict], optuna.pruners.BasePruner]] = {
    "median": lambda config: optuna.pruners.MedianPruner(n_startup_trials=5),
    "asha": lambda config: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=training_of(config).eval_every, reduction_factor=3),
    "none": lambda config: optuna.pruners.NopPruner(),
}
"""By name. ASHA is Li et al. 2020, with rungs at `eval_every` times powers of 3 steps."""

FIELDS: Fields = {
    "sampler": Field("tpe", "how values are chosen; grid: each combination once", tuple(SAMPLERS)),
    "trials": Field(40, "how many; a grid has as many as it has points", "[1, 1000000]"),
    "startup": Field(10, "trials at random before TPE models what it has seen", "[0, 1000000]"),
    "pruner": Field("median", "which trials are stopped early, at their evaluations", tuple(PRUNERS)),
    "study": Field("", "its name in the storage; empty: that of the workdir"),
    "launch": Field("", 'options of submitit or Ray, such as "slurm_partition=gpu gpus_per_node=1"'),
}
"""The fields of the group `sweep` of a config."""


def check(config: ConfigDict, space: Space) -> tuple[str, str]:
    """The score that the sweep chooses by, and its better end. Raises UserError naming the field for a sweep that
    cannot be run."""
    fields.check_values(config.sweep, FIELDS, "sweep.")
    launchers.options(config.sweep.launch)
    count(config, space)
    return spaces.check(config, space, check_fields, trainable).best


def count(config: ConfigDict, space: Space) -> int:
    """How many trials the sweep has: all points of a grid, else `config.sweep.trials`."""
    return len(spaces.grid(space)) if config.sweep.sampler == "grid" else config.sweep.trials
