"""Plain against residual at depths 20 and 56 on scikit-learn's digits (1,797 images, 16x16): minutes on a laptop.

    cnnjax depth --config configs/depth/digits.py --workdir runs/depth
"""

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.depth_study()
    config.data.source = "digits"
    config.data.pad = 2
    config.data.flip = False                # a mirrored digit is another sign
    config.steps = 450
    config.schedule.boundaries = (2 / 3, 8 / 9)
    config.schedule.warmup_steps = 1 / 9     # at the full rate the first steps throw a net of 56 layers far off
    config.log_every = 10
    config.eval_every = 50
    config.checkpoint_every = 50
    config.diagnostics = True
    return config
