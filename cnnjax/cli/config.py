"""`cnnjax config`: the fields of a config file, with their allowed values and meanings."""

import argparse
from typing import Any

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import fields

from .common import REQUIRED, Subparsers, find_config, is_detector, subcommand


def add_config(subparsers: Subparsers) -> None:
    subcommand(subparsers, "config", show_config,
               "every field of a config file: its value, default, allowed values and meaning", config=REQUIRED)


def show_config(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.reporting import tables
    config = configs.load(find_config(options.config), overrides)
    known = fields_of(config)
    configs.check(config, fields.defaults(known))
    fields.check_values(config, known)
    tables.show(("field", "value", "default", "allowed", "meaning"), fields.describe(config, known),
                title=str(options.config), words=True)


def fields_of(config: ConfigDict) -> dict[str, Any]:
    """The declared fields of the kind of config that this is, by the groups that it has."""
    if "sweep" in config:
        from cnnjax.experiments import sweep_settings
        others = ConfigDict({name: value for name, value in config.items() if name != "sweep"})
        return {**fields_of(others), "sweep": sweep_settings.FIELDS}
    if "study" in config:
        from cnnjax.experiments import depth
        return dict(depth.FIELDS)
    if "detectors" in config:
        from cnnjax.detection import settings
        return dict(settings.declared(config))
    if is_detector(config):
        from cnnjax.detection import settings
        return dict(settings.declared_alone(config))
    from cnnjax import classification
    return dict(classification.FIELDS)
