"""AlexNet on ImageNet (Krizhevsky et al. 2012, section 5): 40.7 % top-1, 18.2 % top-5 on the validation set.

Batch 128, momentum 0.9, weight decay 0.0005, rate 0.01 divided by ten three times, about 90 passes. The paper divided
when the validation error stopped falling; quarters of the run stand for that.

    cnnjax train --config configs/zoo/alexnet.py --workdir runs/alexnet
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.imagenet("alexnet", epochs=90, batch_size=128, rate=0.01, weight_decay=5e-4, image_size=227)
    shared.drops(config, 1 / 4, 1 / 2, 3 / 4)
    return config
