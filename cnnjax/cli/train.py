"""`cnnjax train`, `cnnjax eval` and `cnnjax report`: one run, of a classifier or of a detector."""

import argparse

from cnnjax import config as configs
from cnnjax.config import user_path
from cnnjax.errors import UserError

from . import studies
from .common import (
    REQUIRED,
    Subparsers,
    add_process_options,
    find_config,
    is_detector,
    load_config,
    refuse_overrides,
    subcommand,
)


def add_train(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "train", train, "train one network, or one detector", config=REQUIRED,
                        workdir=REQUIRED)
    add_process_options(parser)


def train(options: argparse.Namespace, overrides: list[str]) -> None:
    import jax

    from cnnjax import classification
    from cnnjax.configs import defaults
    from cnnjax.training import distributed
    config = configs.load(find_config(options.config), overrides)
    if "detectors" in config or is_detector(config):
        studies.ladder(options, overrides)
        return
    result = classification.train(load_config(options, overrides, defaults.classification()), options.workdir)
    print(f"test error {100 * result['test_error']:.2f} %, {result['parameters']:,} parameters, "
          f"{result['images_per_second']:.0f} images/s; {options.workdir}")
    if "members" in result or not distributed.is_writer():
        return
    alone = jax.process_count() == 1        # else the others, which are done, would be missed in reading a checkpoint
    print(f"report: {classification.report(options.workdir, answers=alone)}")
    if not alone:
        print(f"what it makes of the test images: cnnjax report {options.workdir}")


def add_eval(subparsers: Subparsers) -> None:
    parser = subcommand(
        subparsers, "eval", evaluate, "a checkpoint on a split: its error, and report.html with errors by class, "
        "confusions, calibration, most confident mistakes; of a detector: AP, precision and recall, confusions, best "
        "and worst", workdir=REQUIRED)
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best on validation, else the last")


def evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import classification
    if (options.workdir / "detector.json").exists() and (options.workdir / "config.json").exists():
        from cnnjax.detection import run as detector_runs
        if options.step is not None:
            raise UserError("--step: a detector keeps the variables of its best checkpoint, or its last; leave it out")
        result = detector_runs.evaluate(options.workdir, options.split, overrides)
        detector_runs.print_classes(result)
        print(f"{options.split} mAP {100 * result['map']:.2f} %, COCO AP {100 * result['coco']['AP']:.2f} %")
        print(f"report: {options.workdir / 'report.html'}")
        return
    row = classification.evaluate(options.workdir, options.split, options.step, overrides)
    print(f"{row['split']} error {100 * row['error']:.2f} %, loss {row['loss']:.4f}, step {row['step']}")
    print(f"report: {classification.report(options.workdir, options.split, options.step, overrides)}")


def add_report(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "report", report,
                        "the report of a run or a study, made again from its files; of one under way: so far")
    parser.add_argument("folder", type=user_path, metavar="WORKDIR")


def report(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.training import workdir as workdirs
    config = workdirs.read_config(options.folder)
    if is_detector(config):
        from cnnjax.detection import run as detector_runs
        refuse_overrides("report", overrides)
        print(f"report: {detector_runs.report(options.folder)}")
        return
    if "study" in config or "sweep" in config or "detectors" in config:
        from cnnjax.experiments import depth, ladder, sweep
        part = depth if "study" in config else sweep if "sweep" in config else ladder
        refuse_overrides("report", overrides)
        part.report(options.folder)
        return
    from cnnjax import classification
    finished = (options.folder / "result.json").exists()
    print(f"report: {classification.report(options.folder, overrides=overrides, answers=finished)}")
