"""RetinaNet with ResNet-50, as Lin et al. 2017, on COCO 2017: days on one GPU.

    cnnjax train --config configs/detect/coco_retinanet.py --workdir runs/coco_retinanet \\
        --config.data.path=PATH --config.model.backbone.weights=resnet50.pth

The weights are torchvision's (ImageNet). `configs/detect/shared.py` says how PATH is laid out.
"""

from ml_collections import ConfigDict

from cnnjax.configs.detect.shared import config_of


def get_config() -> ConfigDict:
    return config_of("retinanet")
