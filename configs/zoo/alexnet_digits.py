"""A narrow AlexNet on the digits: 5x5 stride 1 in place of 11x11 stride 4, a quarter of the filters, one group.

    cnnjax train --config configs/zoo/alexnet_digits.py --workdir runs/alexnet_digits
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    return shared.digits("alexnet", steps=200, rate=0.02, stem="cifar", filters=(24, 64, 96, 96, 64), hidden=256,
                         groups=1, initializer="he")
