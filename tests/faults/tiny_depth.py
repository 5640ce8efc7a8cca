"""A depth study of four cells, of the smallest networks: what is killed again and again."""

from ml_collections import ConfigDict

from configs import defaults


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.model = ConfigDict({"name": "resnet20", "blocks": (1, 1, 1), "width": 4})
    config.study.depths = (20, 32)
    config.data.pad = 2
    config.data.flip = False
    config.batch_size = 16
    config.steps = 600
    config.schedule.boundaries = (300, 450)
    config.log_every = 5
    config.eval_every = 100
    config.checkpoint_every = 20
    config.steps_per_dispatch = 5
    config.tensorboard = False
    return config
