"""Tiny configs of each kind, and what makes the finished runs that tests share (see conftest.py).

What trains is imported where it is needed, so that a session of a few tests starts quickly.
"""

from pathlib import Path
from typing import Any
from unittest import mock

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.configs import defaults
from tests import reads

TINY = Path(__file__).parent / "tiny_config.py"
TINY_LADDER = Path(__file__).parent / "detection" / "tiny_ladder.py"


def _set(config: ConfigDict, overrides: tuple[str, ...], reference: ConfigDict) -> ConfigDict:
    for override in overrides:
        configs.set_field(config, *override.split("=", 1))
    configs.check(config, reference)
    return config


def classifier(*overrides: str) -> ConfigDict:
    return _set(configs.load(TINY), overrides, defaults.classification())


def depth_study(*overrides: str) -> ConfigDict:
    """Four cells of ten steps."""
    config = defaults.depth_study()
    config.update(configs.load(TINY).copy_and_resolve_references())
    config.study.depths = (20, 32)
    config.steps = 10
    config.diagnostics = True
    return _set(config, overrides, defaults.depth_study())


def sweep(*overrides: str) -> ConfigDict:
    """Trials of ten steps of a network with one block."""
    config = configs.load(TINY)
    config.sweep = ConfigDict(defaults.sweep().sweep)
    config.data.validation = 60
    config.steps = config.eval_every = 10
    config.model.blocks = (1,)              # little to compile
    return _set(config, overrides, defaults.sweep())


def grid_sweep(*overrides: str) -> tuple[ConfigDict, dict[str, Any]]:
    """Config and space of a sweep of two trials of 20 steps."""
    from optuna.distributions import CategoricalDistribution
    return (sweep("sweep.sampler=grid", "steps=20", "log_every=1", *overrides),
            {"optimizer.learning_rate": CategoricalDistribution((0.01, 0.1))})


def train_classifier(workdir: Path) -> None:
    """Finishes a run of `classifier()`."""
    from cnnjax import classification
    with reads.keep(workdir):
        classification.train(classifier(), workdir)


def run_depth_study(workdir: Path) -> None:
    """Finishes `depth_study()`, with eight images for each figure of trained networks."""
    from cnnjax.experiments import depth, why_depth
    counts = dict.fromkeys(("SURFACE_IMAGES", "REMOVAL_IMAGES", "CORRELATION_IMAGES"), 8)
    with mock.patch.multiple(why_depth, **counts), reads.keep(workdir):
        depth.run(depth_study(), workdir)


def run_sweep(workdir: Path) -> None:
    """Finishes `grid_sweep()`."""
    from cnnjax.experiments import sweep
    with reads.keep(workdir):
        sweep.run(*grid_sweep(), workdir)


def run_ladder(workdir: Path) -> None:
    """Finishes the ladder of four detectors of `tests/detection/tiny_ladder.py`."""
    from cnnjax.detection import settings
    from cnnjax.experiments import ladder
    config = configs.load(TINY_LADDER)
    detectors = (settings.detector_of(config, name, 3) for name in config.detectors)
    classes = set().union(*map(reads.dataclasses_of, detectors))
    with reads.keep(workdir, classes):
        ladder.run(config, workdir)
