"""Fast R-CNN alone on scattered digits, which need no file: minutes on two CPU cores.

    cnnjax train --config configs/detect/scatter_fast_rcnn.py --workdir runs/fast_rcnn
    cnnjax eval --workdir runs/fast_rcnn
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import scatter
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(scatter.get_config(), "fast_rcnn")
