"""Faster R-CNN with FPN alone on scattered digits, which need no file: minutes on two CPU cores.

    cnnjax train --config configs/detect/scatter_faster_rcnn_fpn.py --workdir runs/fpn
    cnnjax eval --workdir runs/fpn
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import scatter
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(scatter.get_config(), "faster_rcnn_fpn")
