"""Plain against residual on CIFAR-10 with a schedule that two CPU cores finish in hours: 4,000 steps, about ten epochs.

    cnnjax depth --config configs/depth/cifar10_short.py --config.data.source=tar \
        --config.data.path=cifar10-jpeg.tar --workdir runs/cifar10_short
"""

from ml_collections import ConfigDict

from configs import defaults


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.study.title = "CIFAR-10"
    config.study.published = defaults.CIFAR10_PUBLISHED
    config.data.source = "cifar10"
    config.steps = 4_000
    config.schedule.boundaries = (2_800, 3_600)
    # Section 4.2 warms up at 110 layers alone, but so short a run does not recover from first steps that are too long.
    config.schedule.warmup_steps = 400
    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 100           # a step is long here: little is lost when a run is killed
    return config
