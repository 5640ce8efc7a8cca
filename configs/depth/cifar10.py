"""Plain against residual on CIFAR-10 by the paper's recipe (He et al. 2015, section 4.2): 64k steps of 128 images,
rate 0.1 divided by 10 at 32k and 48k, weight decay 1e-4, momentum 0.9, crops from 4 pixels of padding and flips.

    cnnjax depth --config configs/depth/cifar10.py --workdir runs/cifar10

Published test errors of the residual nets, table 6: 8.75 % at depth 20, 6.97 % at 56.
"""

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.study.title = "CIFAR-10"
    config.study.published = defaults.CIFAR10_PUBLISHED
    config.data.source = "cifar10"          # TFDS; or --config.data.source=tar --config.data.path=FILE.tar
    config.study.seeds = (0, 1, 2, 3, 4)
    return config
