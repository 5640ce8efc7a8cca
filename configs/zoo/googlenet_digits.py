"""GoogLeNet at full width with both heads on the digits: 3x3 stride 1 first, means of 4x4 in the heads.

With batch norm, as Ioffe and Szegedy (2015) have it: without, 22 layers need more steps than a minute has to begin.

    cnnjax train --config configs/zoo/googlenet_digits.py --workdir runs/googlenet_digits
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.digits("googlenet", steps=200, rate=0.05, batch_size=32, stem="cifar", aux_pool="4x4",
                           batch_norm=True)
    config.optimizer.clip_norm = 1.0
    return config
