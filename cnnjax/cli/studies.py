"""`cnnjax depth`, `cnnjax ladder` and `cnnjax sweep`: the studies, each of several trainings."""

import argparse
import contextlib

from cnnjax import config as configs
from cnnjax import fields
from cnnjax.config import user_path
from cnnjax.errors import UserError

from .common import Subparsers, add_process_options, find_config, is_detector, load_config, subcommand


def add_depth(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "depth", depth,
                        "plain against residual at several depths and seeds: curves, table, figure, report",
                        config="configs/depth/digits.py", workdir="runs/depth")
    add_process_options(parser)


def depth(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.configs import defaults
    from cnnjax.experiments import depth
    depth.run(load_config(options, overrides, defaults.depth_study()), options.workdir)


def add_ladder(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "ladder", ladder,
                        "detectors on the same data and backbone: accuracy and time side by side",
                        config="configs/ladder/scatter.py", workdir="runs/ladder")
    add_process_options(parser, devices=1)


def ladder(options: argparse.Namespace, overrides: list[str]) -> None:
    """Trains the detectors of a config, or the one that it has; `train` gets here too."""
    import jax

    from cnnjax.configs.ladder import defaults
    from cnnjax.detection import run as detector_runs
    from cnnjax.detection import settings
    from cnnjax.experiments import ladder
    if options.devices is None:             # `train` was started with two
        with contextlib.suppress(RuntimeError):         # JAX has begun, in a process that is not the command's own
            jax.config.update("jax_num_cpu_devices", 1)
    config = configs.load(find_config(options.config), overrides)
    if is_detector(config):
        known = fields.defaults(settings.declared_alone(config))
        detector_runs.train(load_config(options, overrides, known), options.workdir)
    elif "detectors" not in config:
        raise UserError(f"{options.config} is no config of detectors: it has neither the field 'detectors' nor a "
                        "detector's 'model.name'; a classifier is trained by cnnjax train")
    else:
        ladder.run(load_config(options, overrides, defaults.ladder()), options.workdir)


def add_sweep(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "sweep", sweep,
                        "a hyperparameter search: each trial a run, by as many workers as you start",
                        config="configs/sweep/digits.py", workdir="runs/sweep")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="on this machine; default 1")
    parser.add_argument("--storage", metavar="URL", help="of Optuna, when machines share the sweep; default: SQLite in "
                        "the workdir")
    parser.add_argument("--launcher", choices=("local", "slurm", "ray"), default="local",
                        help="what starts the workers")
    parser.add_argument("--against", type=user_path, nargs="*", default=(), metavar="DIR", help="finished sweeps to "
                        "compare with at equal cost")


def sweep(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.configs import defaults
    from cnnjax.configs.ladder import defaults as ladders
    from cnnjax.experiments import space, sweep
    of_detectors = "detectors" in configs.load(find_config(options.config), overrides)
    config = load_config(options, overrides, defaults.sweep(ladders.ladder() if of_detectors else None))
    sweep.run(config, space.load(find_config(options.config)), options.workdir, workers=options.workers,
              storage=options.storage, launcher=options.launcher, against=options.against)
