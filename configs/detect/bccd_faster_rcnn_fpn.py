"""Faster R-CNN with FPN alone on blood cells (BCCD, PASCAL VOC layout): 24 minutes on a CPU core that others shared.

    cnnjax train --config configs/detect/bccd_faster_rcnn_fpn.py --workdir runs/fpn --config.data.path=FOLDER
    cnnjax eval --workdir runs/fpn
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import bccd
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(bccd.get_config(), "faster_rcnn_fpn")
