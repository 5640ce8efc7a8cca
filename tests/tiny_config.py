"""A ResNet of six layers and width 4 on the digits: the smallest run that goes through all of the real code."""

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.classification()
    config.model = ConfigDict({"name": "resnet20", "blocks": (1, 1), "width": 4})
    config.data.pad = 2
    config.data.flip = False
    config.batch_size = 16
    config.steps = 20
    config.schedule.boundaries = (10, 15)
    config.log_every = 5
    config.eval_every = 10
    config.checkpoint_every = 5
    config.steps_per_dispatch = 5
    config.tensorboard = False
    return config
