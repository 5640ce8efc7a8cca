"""Plain against residual on CIFAR-10 within 4,000 steps (ten epochs): a budget of two CPU cores and some hours.

    cnnjax depth --config configs/depth/cifar10_budget.py --workdir runs/cifar10_budget \
        --config.data.source=tar --config.data.path=cifar10.tar.gz

Rate 0.1 with Nesterov momentum, weight decay 5e-4, a warm-up of 400 steps, then linear decay to zero, which is best or
near it for so few epochs (Li et al. 2020, "Budgeted Training"). Test errors to expect, measured with seed 0: plain-20
15.50 %, ResNet-20 13.44 %, plain-56 36.26 %, ResNet-56 11.77 %. On two idle cores of an AMD EPYC (Zen 5, AVX-512) a
seed of the four takes 1.7 hours; three seeds, as here, five.
"""

from ml_collections import ConfigDict

from cnnjax.configs.depth import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.study.seeds = (0, 1, 2)
    config.steps = 4_000
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "polynomial"     # of power 1: to zero in a straight line
    config.schedule.boundaries = ()
    # Section 4.2 warms up at 110 layers alone, but so short a run does not recover from first steps that are too long.
    config.schedule.warmup_steps = 400
    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 50            # a step is long here: little is lost when a run is killed
    config.diagnostics = True
    return config
