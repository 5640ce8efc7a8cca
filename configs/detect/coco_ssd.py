"""SSD300 with VGG16, as Liu et al. 2016, on COCO 2017: days on one GPU.

    cnnjax train --config configs/detect/coco_ssd.py --workdir runs/coco_ssd --config.data.path=PATH

From scratch, or from a trained SSD by `--config.init.weights`. `configs/detect/shared.py` says how PATH is laid out.
The default boxes are the paper's for COCO (section 3.4), smaller than VOC's.
"""

from ml_collections import ConfigDict

from cnnjax.configs.detect.shared import config_of


def get_config() -> ConfigDict:
    config = config_of("ssd")
    config.model.scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    config.steps = 240_000
    config.eval_every = config.checkpoint_every = 30_000
    return config
