"""VGG-16 (net D) on ImageNet (Simonyan and Zisserman 2014, section 3.1): 25.6 % top-1, 8.1 % top-5 by multi-scale
training.

Batch 256, momentum 0.9, weight decay 0.0005, rate 0.01 divided by ten three times, 74 passes. The rectifiers'
initialisation makes the paper's way, to train net A first, needless; `cnnjax.models.vgg.grow` is that way.

    cnnjax train --config configs/zoo/vgg16.py --workdir runs/vgg16
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.imagenet("vgg16", epochs=74, batch_size=256, rate=0.01, weight_decay=5e-4)
    shared.drops(config, 1 / 4, 1 / 2, 3 / 4)
    return config
