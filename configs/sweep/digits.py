"""Kind, width, rate, momentum and weight decay of a 20-layer net on scikit-learn's digits: 40 short trials.

    cnnjax sweep --config configs/sweep/digits.py --workdir runs/sweep --workers 2

Random search over the same space: --config.sweep.sampler=random --config.sweep.pruner=none
"""

from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from cnnjax.configs import defaults


def get_config() -> ConfigDict:
    config = defaults.sweep()
    config.data.validation = 288            # a fifth of the training images
    config.data.pad = 2
    config.data.flip = False                # a mirrored digit is another sign
    config.model.width = 8
    config.batch_size = 64
    config.steps = 60
    config.schedule.name = "cosine"
    config.log_every = 20
    config.eval_every = 20
    config.checkpoint_every = 20
    config.tensorboard = False
    return config


def space() -> dict[str, BaseDistribution]:
    return {
        "model.name": CategoricalDistribution(("resnet20", "plain20")),
        "model.width": CategoricalDistribution((4, 8)),
        "optimizer.learning_rate": FloatDistribution(0.003, 1.0, log=True),
        "optimizer.momentum": FloatDistribution(0.5, 0.99),
        "optimizer.weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    }
