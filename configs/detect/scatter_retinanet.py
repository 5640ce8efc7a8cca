"""RetinaNet alone on scattered digits, which need no file: minutes on two CPU cores.

    cnnjax train --config configs/detect/scatter_retinanet.py --workdir runs/retinanet
    cnnjax eval --workdir runs/retinanet
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import scatter
from cnnjax.detection import settings


def get_config() -> ConfigDict:
    return settings.alone(scatter.get_config(), "retinanet")
