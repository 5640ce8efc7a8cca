"""A sweep of many trials of the smallest run."""

from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution, FloatDistribution

from cnnjax.configs import defaults
from tests import tiny_config


def get_config() -> ConfigDict:
    config = defaults.sweep()
    config.update(tiny_config.get_config())
    config.data.validation = 288
    config.sweep.update(trials=24, sampler="random", pruner="none")
    config.eval_every = 20
    config.checkpoint_every = 20
    return config


def space() -> dict[str, BaseDistribution]:
    return {"optimizer.learning_rate": FloatDistribution(0.01, 0.1, log=True)}
