"""A narrow VGG-16 on the digits at 32x32; other depths and batch norm by `--config.model.name=vgg19_bn` and the like.

    cnnjax train --config configs/zoo/vgg16_digits.py --workdir runs/vgg16_digits
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.digits("vgg16", steps=400, rate=0.02, image_size=32, width=16, hidden=128)
    config.optimizer.clip_norm = 1.0        # thirteen convolutions without batch norm: early steps can be too long
    return config
