"""YOLO alone on blood cells (BCCD, PASCAL VOC layout), on one CPU core.

    cnnjax train --config configs/detect/bccd_yolo.py --workdir runs/yolo --config.data.path=FOLDER
    cnnjax eval --workdir runs/yolo
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import bccd
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(bccd.get_config(), "yolo")
