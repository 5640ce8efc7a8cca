"""ResNet-20 on scikit-learn's digits: about a minute, about 2 % test error.

    cnnjax train --config configs/train/digits.py --workdir runs/digits
"""

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.classification()
    config.data.pad = 2
    config.data.flip = False                # a mirrored digit is another sign
    config.steps = 300
    config.schedule.boundaries = (2 / 3, 13 / 15)
    config.log_every = 10
    config.eval_every = 50
    config.checkpoint_every = 50
    return config
