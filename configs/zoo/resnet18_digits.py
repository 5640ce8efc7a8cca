"""A narrow ResNet-18 on the digits with the small stem; other depths and plain nets by `--config.model.name=plain34`.

    cnnjax train --config configs/zoo/resnet18_digits.py --workdir runs/resnet18_digits
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    return shared.digits("resnet18", steps=100, rate=0.1, stem="cifar", width=16)
