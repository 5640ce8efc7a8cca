"""Faster R-CNN alone on scattered digits, which need no file: minutes on two CPU cores.

    cnnjax train --config configs/detect/scatter.py --workdir runs/faster
    cnnjax eval --workdir runs/faster

The files scatter_NAME.py beside this one train the other detectors.
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import scatter
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(scatter.get_config(), "faster_rcnn")
