"""Plain against residual on CIFAR-100 by the paper's CIFAR-10 recipe.

    cnnjax depth --config configs/depth/cifar100.py --workdir runs/cifar100
"""

from ml_collections import ConfigDict

from cnnjax.configs.depth import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.source = "cifar100"
    config.study.title = "CIFAR-100"
    config.study.published = ()
    return config
