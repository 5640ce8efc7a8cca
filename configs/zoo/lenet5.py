"""LeNet-5 on MNIST (LeCun et al. 1998, section III): the paper reports 0.95 % test error, 20 passes.

Momentum and half a cosine stand for the paper's diagonal Levenberg-Marquardt steps.

    cnnjax train --config configs/zoo/lenet5.py --config.data.path=FOLDER_OF_IDX_FILES --workdir runs/lenet5
"""

from ml_collections import ConfigDict

from cnnjax.configs.zoo import shared


def get_config() -> ConfigDict:
    config = shared.digits("lenet5", steps=20 * 60_000 // 64, rate=0.01, image_size=28)
    config.data.source = "idx"
    config.data.pad = 0                     # the paper's first result is without distortions
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 5.0        # the RBF's first distances are large, and so are its first gradients
    return config
