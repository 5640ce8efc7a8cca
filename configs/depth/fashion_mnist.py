"""Plain against residual on Fashion-MNIST (28x28, grey), a quarter of the CIFAR-10 schedule.

    cnnjax depth --config configs/depth/fashion_mnist.py --workdir runs/fashion_mnist

With the original files at hand: --config.data.source=idx --config.data.path=FOLDER
"""

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.data.source = "fashion_mnist"
    config.study.title = "Fashion-MNIST"
    config.data.pad = 2
    config.steps = 16_000
    config.study.seeds = (0, 1, 2)
    return config
