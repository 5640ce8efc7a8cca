"""What several subcommands share: how one is declared, and how its config is found, loaded and told from others."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ml_collections import ConfigDict

import cnnjax
from cnnjax import config as configs
from cnnjax import launch
from cnnjax.config import user_path
from cnnjax.errors import UserError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a subcommand is added."""

REQUIRED = ""
"""In place of the default of --config or --workdir."""


def subcommand(subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace, list[str]], None], help: str, *,
               config: str | None = None, workdir: str | None = None) -> argparse.ArgumentParser:
    """Adds the subcommand `name`, which calls `run(options, overrides)`, and returns its parser.

    `config` and `workdir` are the defaults of its --config and --workdir; REQUIRED: the user must give it; None: there
    is no such option.
    """
    parser = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    if config is not None:
        parser.add_argument("--config", metavar="FILE", default=config or None, required=not config,
                            help="a config file; " + (f"default {config}; " if config else "") +
                            "set its fields by --config.path.to.field=value")
    if workdir is not None:
        parser.add_argument("--workdir", metavar="DIR", type=user_path, default=Path(workdir) if workdir else None,
                            required=not workdir, help="where the run is kept; the same command goes on from it" +
                            (f"; default {workdir}" if workdir else ""))
    parser.set_defaults(run=run)
    return parser


def add_process_options(parser: argparse.ArgumentParser, devices: int = 2) -> None:
    """The options of a training in several processes or on several devices; `devices` is how many a CPU gives by
    default."""
    group = parser.add_argument_group("several processes, one command each, on a workdir that all see")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; auto: as Slurm or the cloud says")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    parser.add_argument("--devices", type=int, metavar="N", help="that a CPU is shared out to, a core each; default 2, "
                        "as the two GPUs of He et al. 2015: batch norm sees half of a batch on each; 1 for detectors")
    parser.set_defaults(default_devices=devices)


def find_config(file: str) -> Path:
    """A config file, or one of the package's own, from whatever folder the command is given in."""
    path = user_path(file)
    packaged = [Path(folder) / file for folder in cnnjax.__path__]
    return next(filter(Path.is_file, (path, *packaged)), path)


def load_config(options: argparse.Namespace, overrides: list[str], reference: ConfigDict) -> ConfigDict:
    """The config of --config with its overrides, checked against `reference`, which has all fields and their types."""
    config = configs.load(find_config(options.config), overrides)
    configs.check(config, reference)
    if config.deterministic:
        os.environ.update(launch.deterministic())
    return config


def refuse_overrides(command: str, overrides: list[str]) -> None:
    if overrides:
        raise UserError(f"{command} takes no --config fields; found --config.{overrides[0]}")


def is_detector(config: ConfigDict) -> bool:
    """Whether a config trains one detector: its group `model` has the name of one."""
    from cnnjax import detection
    model = config.get("model")
    return isinstance(model, ConfigDict) and model.get("name") in detection.names()
