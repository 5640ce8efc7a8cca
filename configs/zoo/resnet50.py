"""ResNet-50 on ImageNet (He et al. 2015, section 3.4): 22.85 % top-1 with ten crops.

Batch 256, momentum 0.9, weight decay 0.0001, rate 0.1 divided by ten at 30 and 60 of 90 epochs. Other depths by
`--config.model.name=resnet18` and the like; plain nets too.

    cnnjax train --config configs/zoo/resnet50.py --workdir runs/resnet50
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.imagenet("resnet50", epochs=90, batch_size=256, rate=0.1, weight_decay=1e-4)
    shared.drops(config, 1 / 3, 2 / 3)
    return config
