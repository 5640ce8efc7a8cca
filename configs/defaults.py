"""Defaults that the experiments share. A config file calls a function of this module and changes what it must."""

from ml_collections import ConfigDict

from cnnjax import classification as classifier
from cnnjax import fields
from cnnjax.experiments import depth


def classification() -> ConfigDict:
    """A classifier by the recipe of He et al. 2015, section 4.2: SGD with momentum, 64k steps of 128 images."""
    return fields.defaults(classifier.FIELDS)


def sweep(config: ConfigDict | None = None) -> ConfigDict:
    """A search over the config of a network or of a ladder of one detector, by default for the classifier of least
    error on images held out. The config file's `space` says where."""
    from cnnjax.experiments import sweep_settings  # what other commands need not import
    if config is None:
        config = classification()
        config.data.validation = 5_000      # He et al. 2015, section 4.2, of CIFAR-10's 50,000
    config.sweep = fields.defaults(sweep_settings.FIELDS)
    return config


CIFAR10_PUBLISHED = (("resnet20", 8.75), ("resnet32", 7.51), ("resnet44", 7.17), ("resnet56", 6.97),
                     ("resnet110", 6.43))
"""He et al. 2015, table 6. The paper gives no numbers for the plain nets."""


def depth_study() -> ConfigDict:
    """The comparison of plain and residual networks: every kind at every depth with every seed."""
    return fields.defaults(depth.FIELDS)
