"""The command `cnnjax`. Each module here holds some of its subcommands: the arguments of each, and what it does."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cnnjax
from cnnjax import launch
from cnnjax.errors import UserError, exit_status

from . import bench, config, data, export, look, predict, studies, train

EPILOG = """
Any field of a config can be set: --config.optimizer.learning_rate=0.05, --config.model.width=32.
One is enough to shorten a run: --config.steps=20 moves its warm-up and its drops of the learning rate along.
A command that was stopped or killed goes on when it is run again with the same --workdir.

  cnnjax depth                                       the comparison on the embedded digits, minutes
  cnnjax train --config configs/train/digits.py --workdir runs/digits
  cnnjax eval --workdir runs/digits
"""

SUBCOMMANDS = (
    studies.add_depth, train.add_train, train.add_eval, train.add_report, look.add_summary, data.add_data,
    look.add_look, predict.add_detect, predict.add_predict, export.add_export, studies.add_sweep, config.add_config,
    studies.add_ladder, bench.add_bench,
)
"""In the order of `cnnjax --help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of this process; returns its exit status."""
    options, overrides = _parse(arguments)
    if arguments is None:
        _relaunch(options)
        _silence_tensorstore()
    return exit_status(lambda: _run(options, overrides))


def parser() -> argparse.ArgumentParser:
    """The parser of a command line, but for the overrides --config.FIELD=VALUE. Of what it gives, `run` is the function
    of the subcommand, which takes the options and the overrides."""
    parser = argparse.ArgumentParser(
        prog="cnnjax", description="The classic convolutional networks, LeNet-5 to Faster R-CNN, in JAX and Flax.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"cnnjax {cnnjax.__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for add in SUBCOMMANDS:
        add(subparsers)
    return parser


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command line and its overrides, each FIELD=VALUE."""
    known = parser()
    options, rest = known.parse_known_args(arguments)
    overrides = []
    for i, argument in enumerate(rest):
        if argument.startswith("--config."):
            overrides.append(argument.removeprefix("--config."))
        elif not (i and rest[i - 1].startswith("--config.") and "=" not in rest[i - 1]):
            known.error(f"unrecognised argument {argument!r}")
        else:
            overrides[-1] += "=" + argument
    return options, overrides


def _run(options: argparse.Namespace, overrides: list[str]) -> None:
    _check_paths(options)
    launch.set_compilation_cache()
    if not hasattr(options, "coordinator"):
        options.run(options, overrides)
        return
    from cnnjax.training import distributed
    distributed.initialize(options.coordinator, options.processes, options.process)
    options.run(options, overrides)
    distributed.wait_for_all(options.workdir)


def _check_paths(options: argparse.Namespace) -> None:
    """Refuses, before anything is run, a file where a folder belongs and a file to be written into no folder."""
    for name in ("workdir", "out"):
        path = getattr(options, name, None)
        for place in (path, *path.parents) if path is not None else ():
            if os.path.isdir(place):                # unlike Path.is_dir, False for a name that is too long
                break
            if os.path.lexists(place):
                raise UserError(f"--{name} {path}: {place} is no folder; choose another --{name}")
    for name in ("json", "csv", "sheet", "draw", "out_file"):
        path, name = getattr(options, name, None), name.removesuffix("_file")
        if isinstance(path, Path) and os.path.isdir(path):
            raise UserError(f"--{name} {path}: is a folder, expected a file")
        if isinstance(path, Path) and not os.path.isdir(path.parent):
            raise UserError(f"--{name} {path}: there is no folder {path.parent}; make it first")


def _relaunch(options: argparse.Namespace) -> None:
    """Starts this command anew in the environment that is fast on a CPU, unless it runs in it or there is an
    accelerator."""
    accelerators = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(importlib.util.find_spec, accelerators))
    trains = hasattr(options, "devices") or getattr(options, "what", "") in ("loop", "data")
    if not trains or not on_cpu:
        return
    default = min(getattr(options, "default_devices", 2), os.cpu_count() or 1)
    environment = launch.environment(getattr(options, "devices", None) or default)
    if environment != os.environ:
        os.execve(sys.executable, [sys.executable, "-m", "cnnjax.cli", *sys.argv[1:]], environment)


def _silence_tensorstore() -> None:
    """Hides an error that follows a failed save, which was told: TensorStore reports to an event loop that has ended.
    """
    show = sys.unraisablehook

    def hook(found: Any) -> None:
        if "Event loop is closed" not in str(found.exc_value):
            show(found)
    sys.unraisablehook = hook
