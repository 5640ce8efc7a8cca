"""Faster R-CNN on four tiny images: what is killed again and again."""

from ml_collections import ConfigDict

from cnnjax.configs.ladder.defaults import shortened
from tests.detection import tiny_ladder


def get_config() -> ConfigDict:
    config = tiny_ladder.get_config()
    config.detectors = ("faster_rcnn",)
    config.faster_rcnn.training = shortened(60, 2, 0.01)
    config.faster_rcnn.training.update(log_every=2, checkpoint_every=4, steps_per_dispatch=2)
    return config
