"""The ladder on PASCAL VOC 2007 with VGG16, as the four papers have it: days on one GPU.

    cnnjax ladder --config configs/ladder/voc2007.py --workdir runs/voc2007 \\
        --config.data.path=VOCdevkit/VOC2007 --config.backbone.weights=vgg16.pth

The weights are torchvision's VGG16 (ImageNet). The papers report mAP 66.0 for R-CNN, 63.1 for SPP-net, 66.9 for Fast
R-CNN and 69.9 for Faster R-CNN. `data.source=tfds` reads the same images as tensorflow-datasets prepared them.
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import defaults


def get_config() -> ConfigDict:
    return defaults.ladder()
