"""A depth study of four cells, of the smallest networks: what is killed again and again."""

from ml_collections import ConfigDict

from cnnjax.configs import defaults
from tests import tiny_config


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.update(tiny_config.get_config())
    config.study.depths = (20, 32)
    config.steps = 600
    config.schedule.boundaries = (300, 450)
    config.eval_every = 100
    config.checkpoint_every = 20
    return config
