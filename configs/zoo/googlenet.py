"""GoogLeNet on ImageNet (Szegedy et al. 2014): top-5 error 10.07 % with one crop, 9.15 % with ten.

The paper tells little of its training. This is the solver that was published with the network in Caffe: batch 32, rate
0.01 falling as the square root of what is left of 60 passes, weight decay 0.0002.

    cnnjax train --config configs/zoo/googlenet.py --workdir runs/googlenet
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.imagenet("googlenet", epochs=60, batch_size=32, rate=0.01, weight_decay=2e-4)
    config.schedule.name = "polynomial"
    config.schedule.power = 0.5
    return config
