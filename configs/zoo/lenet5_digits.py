"""LeNet-5, the paper's form, on the digits: see `experiments/results/zoo.md` for time and error.

    cnnjax train --config configs/zoo/lenet5_digits.py --workdir runs/lenet5_digits
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.digits("lenet5", steps=2_500, rate=0.01, image_size=28)
    config.data.pad = 2
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 5.0        # squared distances are large at first: rate 0.02, unclipped, loses its way
    return config
