"""Defaults that the experiments share. A config file calls a function of this module and changes what it must."""

from ml_collections import ConfigDict

from cnnjax import classification as classifier
from cnnjax import fields
from experiments import depth


def classification() -> ConfigDict:
    """A classifier by the recipe of He et al. 2015, section 4.2: SGD with momentum, 64k steps of 128 images."""
    return fields.defaults(classifier.FIELDS)


def sweep() -> ConfigDict:
    """A search for the classifier of least error on images held out. The config file's `space()` says where."""
    config = classification()
    config.data.validation = 5_000          # He et al. 2015, section 4.2, of CIFAR-10's 50,000
    config.sweep = ConfigDict()
    config.sweep.sampler = "tpe"            # tpe, random or grid
    config.sweep.trials = 40                # a grid has as many as it has points
    config.sweep.startup = 10               # trials at random before TPE models what it has seen
    config.sweep.pruner = "median"          # median, asha or none: at each evaluation
    config.sweep.study = ""                 # its name in the storage; empty: that of the workdir
    config.sweep.launch = ""                # options of submitit or Ray: "slurm_partition=gpu gpus_per_node=1"
    return config


CIFAR10_PUBLISHED = (("resnet20", 8.75), ("resnet32", 7.51), ("resnet44", 7.17), ("resnet56", 6.97),
                     ("resnet110", 6.43))
"""He et al. 2015, table 6. The paper gives no numbers for the plain nets."""


def depth_study() -> ConfigDict:
    """The comparison of plain and residual networks: every kind at every depth with every seed."""
    return fields.defaults(depth.FIELDS)
