"""The command `cnnjax`: one verb a use. `cnnjax --help` teaches."""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

import cnnjax
from cnnjax import config as configs
from cnnjax import fields, launch
from cnnjax.config import user_path
from cnnjax.errors import UserError, exit_status

if TYPE_CHECKING:
    from cnnjax import predict
    from cnnjax.detection.saved import Saved

EPILOG = """
Any field of a config can be set: --config.optimizer.learning_rate=0.05, --config.model.width=32.
One is enough to shorten a run: --config.steps=20 moves its warm-up and its drops of the learning rate along.
A command that was stopped or killed goes on when it is run again with the same --workdir.

  cnnjax depth                                       the comparison on the embedded digits, minutes
  cnnjax train --config configs/train/digits.py --workdir runs/digits
  cnnjax eval --workdir runs/digits
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = []
    for i, argument in enumerate(rest):
        if argument.startswith("--config."):
            overrides.append(argument.removeprefix("--config."))
        elif not (i and rest[i - 1].startswith("--config.") and "=" not in rest[i - 1]):
            parser.error(f"unrecognised argument {argument!r}")
        else:
            overrides[-1] += "=" + argument
    if arguments is None:
        _relaunch(options)
        _quieten()
    return exit_status(lambda: _run(options, overrides))


def _run(options: argparse.Namespace, overrides: list[str]) -> None:
    _check_places(options)
    launch.set_compilation_cache()
    if hasattr(options, "coordinator"):
        from cnnjax.training import distributed
        distributed.initialize(options.coordinator, options.processes, options.process)
    options.run(options, overrides)


class _OldName(argparse.Action):
    """An old name of an option, which is taken one version more, and told."""

    def __call__(self, parser: Any, options: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        print(f"{option_string} is called --{self.dest.replace('_', '-')} now: the next version will not know its old "
              "name", file=sys.stderr)
        setattr(options, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnnjax", description="The classic convolutional networks, LeNet-5 to Faster R-CNN, in JAX and Flax.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"cnnjax {cnnjax.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace, list[str]], None], help: str, *, config: str | None,
             workdir: str | None) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if config is not None:
            sub.add_argument("--config", metavar="FILE", default=config or None, required=not config,
                             help="a config file; " + (f"default {config}; " if config else "") +
                             "set its fields by --config.path.to.field=value")
        if workdir is not None:
            sub.add_argument("--workdir", metavar="DIR", type=user_path, default=Path(workdir) if workdir else None,
                             required=not workdir, help="where the run is kept; the same command goes on from it" +
                             (f"; default {workdir}" if workdir else ""))
        sub.set_defaults(run=run)
        return sub

    sub = verb("depth", _depth, "plain against residual at several depths and seeds: curves, table, figure, report",
               config="configs/depth/digits.py", workdir="runs/depth")
    _processes(sub)
    sub = verb("train", _train, "train one network, or one detector", config="", workdir="")
    _processes(sub)
    sub = verb("eval", _eval, "a checkpoint on a split: its error, and report.html with errors by class, confusions, "
               "calibration, surest mistakes; of a detector: AP, precision and recall, confusions, best and worst",
               config=None, workdir="")
    sub.add_argument("--split", choices=("train", "validation", "test"), default="test")
    sub.add_argument("--step", type=int, help="of the checkpoint; default: the best on validation, else the last")

    sub = verb("report", _report, "the report of a run or a study, made again from its files; of one under way: so far",
               config=None, workdir=None)
    sub.add_argument("folder", type=user_path, metavar="WORKDIR")

    sub = verb("summary", _summary, "the layers of a network or detector, as the papers' tables print them",
               config=None, workdir=None)
    sub.add_argument("networks", nargs="*", metavar="NAME", help="such as vgg16; without any: the names there are")
    sub.add_argument("--compare", action="store_true", help="the networks side by side instead of one after the other")
    sub.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    sub.add_argument("--classes", type=int, metavar="N", help="of the last layer; default: the paper's")
    sub.add_argument("--image", type=int, nargs="+", metavar="N",
                     help="height, width and channels; default: the paper's")
    sub.add_argument("--draw", type=user_path, metavar="FILE.svg", help="also draws the network")

    sub = verb("data", _data, "what lies in a data set: format, classes, counts, sizes, splits, faults", config=None,
               workdir=None)
    sub.add_argument("path", metavar="PATH", help="a folder, or a table or tar of images")
    sub.add_argument("--task", choices=("classify", "detect"), help="default: detect where there are boxes")
    sub.add_argument("--source", default="auto", metavar="NAME", help="of data.source; default: by the files")
    sub.add_argument("--out", dest="sheet", type=user_path, metavar="PATH", help="writes a contact sheet there, boxes "
                     "drawn: a folder, or a .png")
    sub.add_argument("--json", type=user_path, metavar="FILE", help="also writes all that was found there")

    sub = verb("look", _look, "pictures of what a trained network has learned: kernels, feature maps, Grad-CAM",
               config=None, workdir="")
    sub.add_argument("--image", type=user_path, metavar="FILE", help="to look at; default: the first test images")
    sub.add_argument("--count", type=int, default=8, metavar="N", help="of test images; default 8")
    sub.add_argument("--stage", metavar="NAME", help="where to look; default: the network's last map")
    sub.add_argument("--step", type=int, help="of the checkpoint; default: the best on validation, else the last")
    sub.add_argument("--landscape", action="store_true", help="instead: the loss surface around the trained network")
    sub.add_argument("--trained", nargs="+", metavar="NAME", default=(), help="of --landscape: networks that come with "
                     "the package, side by side, in place of the run")
    sub.add_argument("--data", type=user_path, metavar="PATH", help="of --trained: a tar or folder of their images")
    sub.add_argument("--anchors", action="store_true", help="instead: a ladder's anchors at the middle of --image")
    sub.add_argument("--proposals", action="store_true", help="instead: the first proposals on --image, by selective "
                     "search, or by a trained network in --workdir that makes its own")
    sub.add_argument("--roi", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"),
                     help="instead: what RoI pooling reads of this region of --image")
    sub.add_argument("--pyramid", type=int, nargs="+", metavar="N", help="instead: the bins of a spatial pyramid with "
                     "so many a side, on --image")

    sub = verb("detect", _detect, "boxes on images, drawn, by a trained detector", config=None, workdir=None)
    sub.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="a file, or a folder of them")
    group = sub.add_argument_group("the detector: one that a ladder trained, or torchvision's weights by name")
    group.add_argument("--workdir", type=user_path, metavar="DIR", help="of the detector: runs/ladder/cells/NAME")
    group.add_argument("--model", metavar="NAME", help="of the detector of --weights: fasterrcnn_resnet50_fpn, "
                       "retinanet_resnet50_fpn, ssd300_vgg16")
    group.add_argument("--weights", type=user_path, metavar="FILE", help="of torchvision (.pth, .safetensors)")
    group.add_argument("--classes", type=user_path, metavar="FILE", help="their names, one a line, or JSON; default: "
                       "COCO's where they are as many")
    sub.add_argument("--out", type=user_path, default=Path("detections"), metavar="DIR", help="default detections")
    sub.add_argument("--score-threshold", type=float, metavar="S", help="detections under it are left out; default: "
                     "the detector's")
    sub.add_argument("--least-score", dest="score_threshold", type=float, action=_OldName, help=argparse.SUPPRESS)

    sub = verb("predict", _predict, "the classes of images, by a trained network", config=None, workdir=None)
    sub.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="a file, or a folder of them")
    _network(sub)
    sub.add_argument("--top", type=int, default=5, metavar="N", help="classes an image; default 5")
    sub.add_argument("--flip", action="store_true", help="the mean over the image and its mirror image")
    sub.add_argument("--ten-crop", action="store_true", help="the mean over four corners and centre, mirrored too")
    sub.add_argument("--json", type=user_path, metavar="FILE", help="also written there as JSON")
    sub.add_argument("--csv", type=user_path, metavar="FILE", help="also written there as CSV")
    sub.add_argument("--sheet", type=user_path, metavar="FILE.png", help="a contact sheet: the images with their "
                     "first classes")
    sub.add_argument("--overwrite", action="store_true", help="replace those files where they are there already")

    sub = verb("export", _export, "a trained network or detector as a file for other programs", config=None,
               workdir=None)
    _network(sub)
    sub.add_argument("--format", required=True, choices=("stablehlo", "onnx", "torch", "safetensors"),
                     help="stablehlo: a program of jax.export for any batch size (of a detector, for one image); onnx: "
                     "a graph of a classifier; torch: a state dict; safetensors: the same")
    sub.add_argument("--canvas", type=int, nargs=2, metavar=("H", "W"), help="of a detector's stablehlo: pixels of its "
                     "images; default: the first canvas of its config")
    sub.add_argument("--out", dest="out_file", required=True, type=user_path, metavar="FILE")
    sub.add_argument("--overwrite", action="store_true", help="replace it where it is there already")

    sub = verb("sweep", _sweep, "a hyperparameter search: each trial a run, by as many workers as you start",
               config="configs/sweep/digits.py", workdir="runs/sweep")
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="on this machine; default 1")
    sub.add_argument("--storage", metavar="URL", help="of Optuna, when machines share the sweep; default: SQLite in "
                     "the workdir")
    sub.add_argument("--launcher", choices=("local", "slurm", "ray"), default="local", help="what starts the workers")
    sub.add_argument("--against", type=user_path, nargs="*", default=(), metavar="DIR", help="finished sweeps to "
                     "compare with at equal cost")

    verb("config", _config, "every field of a config file: its value, default, allowed values and meaning", config="",
         workdir=None)

    sub = verb("ladder", _ladder, "detectors on the same data and backbone: accuracy and time side by side",
               config="configs/ladder/scatter.py", workdir="runs/ladder")
    _processes(sub, devices=1)

    sub = verb("bench", _bench, "speed of this machine, against PyTorch where it is installed",
               config="configs/train/digits.py", workdir=None)
    sub.add_argument("what", choices=("train", "inference", "levers", "ops", "loop", "data"), help="train, inference: "
                     "networks, in turn with plain Flax and PyTorch; levers: what each trick brings the training "
                     "step; ops: detection operations, in turn with torchvision; loop: the training loop beside its "
                     "bare step; data: reading, cropping and streaming beside the step")
    sub.add_argument("networks", nargs="*", default=("resnet20", "resnet56"), metavar="NAME",
                     help="of train, inference and levers; default resnet20 resnet56")
    sub.add_argument("--batch", type=int, default=128, metavar="N", help="images; default 128")
    sub.add_argument("--rounds", type=int, default=9, metavar="N", help="measured steps of each; default 9")
    sub.add_argument("--torch-python", type=user_path, default=Path(sys.executable), metavar="FILE",
                     help="an interpreter that has PyTorch; default: this one")
    sub.add_argument("--json", type=user_path, metavar="FILE", help="also writes the figures there")
    return parser


def _processes(sub: argparse.ArgumentParser, devices: int = 2) -> None:
    group = sub.add_argument_group("several processes, one command each, on a workdir that all see")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; auto: as Slurm or the cloud says")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    sub.add_argument("--devices", type=int, metavar="N", help="that a CPU is shared out to, a core each; default 2, as "
                     "the two GPUs of He et al. 2015: batch norm sees half of a batch on each; 1 for detectors")
    sub.set_defaults(default_devices=devices)


def _network(sub: argparse.ArgumentParser) -> None:
    """The options that name a trained classifier, for `_trained_network`."""
    group = sub.add_argument_group("the network: a run, or weights by name")
    group.add_argument("--workdir", type=user_path, metavar="DIR", help="of a run of cnnjax train")
    group.add_argument("--step", type=int, help="of its checkpoint; default: the best on validation, else the last")
    group.add_argument("--model", metavar="NAME", help="of the network of --weights, such as resnet50")
    group.add_argument("--weights", metavar="FILE", help="of PyTorch (.pth, .safetensors); or cifar10: those that come "
                       "with the package, of resnet20, resnet56, plain20 and plain56")
    group.add_argument("--classes", type=user_path, metavar="FILE", help="their names, one a line, or JSON; default: "
                       "ImageNet's where there are 1000")
    for name, what in (("mean", "mean"), ("std", "deviation")):
        group.add_argument(f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"),
                           help=f"{what} of pixels in [0, 1] that --weights were trained with; default ImageNet's")


def _trained_network(options: argparse.Namespace) -> "predict.Network":
    from cnnjax import predict
    by_weights = ("model", "weights", "classes", "mean", "std")
    given = [f"--{name}" for name in by_weights if getattr(options, name) is not None]
    if options.workdir is not None:
        if given:
            raise UserError(f"--workdir and {given[0]}: a run knows its network, weights and classes; give one of them")
        return predict.of_run(options.workdir, options.step)
    if options.model is None or options.weights is None:
        raise UserError("which network? give --workdir DIR, or --model NAME and --weights FILE")
    if options.step is not None:
        raise UserError("--step is that of a run's checkpoint: it goes with --workdir")
    return predict.of_weights(options.model, options.weights, classes=options.classes, mean=options.mean,
                              std=options.std)


def _load(options: argparse.Namespace, overrides: list[str], reference: ConfigDict) -> ConfigDict:
    config = configs.load(_find(options.config), overrides)
    configs.check(config, reference)
    if config.deterministic:                # JAX reads it when it first touches a device, which is after this
        os.environ.update(launch.deterministic())
    return config


def _find(file: str) -> Path:
    """A config file, or one of the package's own, from whatever folder the command is given in."""
    path = user_path(file)
    packaged = [Path(folder) / file for folder in cnnjax.__path__]
    return next(filter(Path.is_file, (path, *packaged)), path)


def _check_places(options: argparse.Namespace) -> None:
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


def _quieten() -> None:
    """Of a save that failed, TensorStore tells the rest to an event loop that is gone: nothing that a user can mend."""
    show = sys.unraisablehook

    def hook(found: Any) -> None:
        if "Event loop is closed" not in str(found.exc_value):
            show(found)
    sys.unraisablehook = hook


def _depth(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.configs import defaults
    from cnnjax.experiments import depth
    depth.run(_load(options, overrides, defaults.depth_study()), options.workdir)


def _train(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import classification
    from cnnjax.configs import defaults
    from cnnjax.training import distributed
    config = configs.load(_find(options.config), overrides)
    if "detectors" in config or _is_detector(config):
        _ladder(options, overrides)
        return
    result = classification.train(_load(options, overrides, defaults.classification()), options.workdir)
    print(f"test error {100 * result['test_error']:.2f} %, {result['parameters']:,} parameters, "
          f"{result['images_per_second']:.0f} images/s; {options.workdir}")
    if "members" not in result and distributed.is_writer():
        print(f"report: {classification.report(options.workdir)}")


def _is_detector(config: ConfigDict) -> bool:
    """Whether a config trains one detector: its group `model` has the name of one."""
    from cnnjax import detection
    model = config.get("model")
    return isinstance(model, ConfigDict) and model.get("name") in detection.names()


def _summary(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import detection, models
    from cnnjax.reporting.summary import run_summary
    _no_config("summary", overrides)
    if not options.networks:
        print("\n".join([*models.names(), *detection.names()]))
        return
    print(run_summary(options.networks, num_classes=options.classes, image=options.image, compare=options.compare,
                      form="json" if options.json else "markdown", draw=options.draw))


def _data(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.reporting import dataset
    from cnnjax.strict_json import to_json
    _no_config("data", overrides)
    found = dataset.survey(options.path, options.task or "", options.source)
    dataset.show(found)
    if options.sheet is not None:
        print(f"contact sheet: {dataset.write_sheet(found, options.sheet)}")
    if options.json is not None:
        options.json.write_text(to_json(dataset.as_json(found), indent=1) + "\n")


def _look(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.experiments import look
    if options.anchors or options.proposals or options.roi or options.pyramid:
        _no_config("look --anchors, --proposals, --roi and --pyramid", overrides)
        print(_look_detection(options))
        return
    if options.landscape or options.trained:
        if options.trained:
            _no_config("look --trained", overrides)
        print(look.landscape(options.workdir, step=options.step, networks=options.trained, data=options.data,
                             overrides=overrides))
        return
    if options.image is not None:
        _no_config("look --image", overrides)
    for path in look.run(options.workdir, count=options.count, stage=options.stage, step=options.step,
                         image=options.image, overrides=overrides):
        print(path)


def _look_detection(options: argparse.Namespace) -> Path:
    from cnnjax.data.assemble import read_image
    from cnnjax.detection import pictures
    if options.image is None:
        raise UserError("look --anchors, --proposals, --roi and --pyramid need --image FILE")
    what = ("anchors" if options.anchors else "proposals" if options.proposals else "roi" if options.roi else
            "pyramid")
    return pictures.draw(options.workdir, what, read_image(options.image), options.roi or (), options.pyramid or ())


def _detect(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.detection import detect
    _no_config("detect", overrides)
    trained = _trained_detector(options)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = detect.detect(trained, options.images, options.out, options.score_threshold)
    for row in rows:
        print(f"{row['file']}: {len(row['detections'])} boxes, drawn as {row['drawing']}")
    print(f"drawings and detections.json: {options.out}")


def _predict(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import predict
    from cnnjax.reporting import tables
    _no_config("predict", overrides)
    if options.top < 1:
        raise UserError(f"--top {options.top}: expected at least 1")
    predictions, unread = predict.run(
        _trained_network(options), options.images, top=options.top, flip=options.flip, ten_crop=options.ten_crop,
        json_file=options.json, csv_file=options.csv, sheet=options.sheet, overwrite=options.overwrite)
    if predictions:
        tables.show(("image", "class", "probability, %"), predict.to_table(predictions))
    if unread:
        raise UserError(f"{len(unread)} of {len(unread) + len(predictions)} images cannot be read, and are left out")


def _trained_detector(options: argparse.Namespace) -> "Saved":
    from cnnjax.detection import detect, saved
    given = [f"--{name}" for name in ("model", "weights", "classes") if getattr(options, name) is not None]
    if options.workdir is not None:
        if given:
            raise UserError(f"--workdir and {given[0]}: a trained detector knows its weights and classes; give one of "
                            "them")
        return saved.load(options.workdir)
    if options.model is None or options.weights is None:
        raise UserError("which detector? give --workdir DIR, or --model NAME and --weights FILE")
    trained = detect.of_weights(options.model, options.weights, options.classes)
    if getattr(getattr(trained.detector, "backbone", None), "norm_epsilon", 1) == 0:
        print(f"{options.weights}: without num_batches_tracked, as torchvision's of COCO: batch norm has no epsilon")
    return trained


def _export(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import detection
    from cnnjax.interop.export import PLATFORMS, export
    from cnnjax.interop.export_detector import export_detector
    _no_config("export", overrides)
    if options.model in detection.names() or (options.workdir and (options.workdir / "detector.json").exists()):
        for name in ("step", "mean", "std"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is a classifier's; leave it out for a detector")
        trained = _trained_detector(options)
        canvas = None if options.canvas is None else (options.canvas[0], options.canvas[1])
        worst = export_detector(options.format, options.out_file, trained.detector, trained.classes, trained.variables,
                                canvas=canvas, overwrite=options.overwrite)
        title, what = trained.detector.title, "boxes and scores"
    else:
        if options.canvas is not None:
            raise UserError("--canvas is a detector's; a classifier takes images of one size")
        network = _trained_network(options)
        worst = export(options.format, options.out_file, network.name, network.module, network.variables,
                       network.image_shape, network.describe(), overwrite=options.overwrite)
        title, what = network.name, "logits"
    platforms = f" for {', '.join(PLATFORMS)}" if options.format == "stablehlo" else ""
    print(f"{options.out_file}: {title} as {options.format}{platforms}; {what} as the network's within {worst:.1e}")


def _sweep(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.configs import defaults
    from cnnjax.configs.ladder import defaults as ladders
    from cnnjax.experiments import space, sweep
    of_detectors = "detectors" in configs.load(_find(options.config), overrides)
    config = _load(options, overrides, defaults.sweep(ladders.ladder() if of_detectors else None))
    sweep.run(config, space.load(_find(options.config)), options.workdir, workers=options.workers,
              storage=options.storage, launcher=options.launcher, against=options.against)


def _ladder(options: argparse.Namespace, overrides: list[str]) -> None:
    import jax

    from cnnjax.configs.ladder import defaults
    from cnnjax.detection import run as detector_runs
    from cnnjax.detection import settings
    from cnnjax.experiments import ladder
    if options.devices is None:             # `train`, which gets here too, was started with two
        with contextlib.suppress(RuntimeError):         # JAX has begun, in a process that is not the command's own
            jax.config.update("jax_num_cpu_devices", 1)
    config = configs.load(_find(options.config), overrides)
    if _is_detector(config):
        known = fields.defaults(settings.declared_alone(config))
        detector_runs.train(_load(options, overrides, known), options.workdir)
    elif "detectors" not in config:
        raise UserError(f"{options.config} is no config of detectors: it has neither the field 'detectors' nor a "
                        "detector's 'model.name'; a classifier is trained by cnnjax train")
    else:
        ladder.run(_load(options, overrides, defaults.ladder()), options.workdir)


def _config(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.reporting import tables
    config = configs.load(_find(options.config), overrides)
    known = fields_of(config)
    configs.check(config, fields.defaults(known))
    fields.check_values(config, known)
    tables.show(("field", "value", "default", "allowed", "meaning"), fields.describe(config, known),
                title=str(options.config), words=True)


def fields_of(config: ConfigDict) -> dict[str, Any]:
    """The declared fields of the kind of config that this is, by the groups that it has."""
    if "sweep" in config:
        from cnnjax.experiments import sweep
        others = ConfigDict({name: value for name, value in config.items() if name != "sweep"})
        return {**fields_of(others), "sweep": sweep.FIELDS}
    if "study" in config:
        from cnnjax.experiments import depth
        return dict(depth.FIELDS)
    if "detectors" in config:
        from cnnjax.detection import settings
        return dict(settings.declared(config))
    if _is_detector(config):
        from cnnjax.detection import settings
        return dict(settings.declared_alone(config))
    from cnnjax import classification
    return dict(classification.FIELDS)


def _bench(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.bench import data, loop, networks, ops
    from cnnjax.configs import defaults
    from cnnjax.reporting import tables
    result: Any
    if options.what == "ops":
        result = ops.measure(options.rounds)
        print(ops.table(result))
    elif options.what in ("loop", "data"):
        part = loop if options.what == "loop" else data
        result = part.run(_load(options, overrides, defaults.classification()), options.rounds)
        tables.show(part.HEADER, part.table(result))
    else:
        result = networks.run(options.what, options.networks, options.batch, options.rounds,
                           str(options.torch_python))
        tables.show(networks.HEADER, networks.table(result))
    if options.json is not None:
        from cnnjax.training import workdir as workdirs
        options.json.write_text(workdirs.to_json(result, indent=1) + "\n")


def _no_config(verb: str, overrides: list[str]) -> None:
    if overrides:
        raise UserError(f"{verb} takes no --config fields; found --config.{overrides[0]}")


def _eval(options: argparse.Namespace, overrides: list[str]) -> None:
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


def _report(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.training import workdir as workdirs
    config = workdirs.read_config(options.folder)
    if _is_detector(config):
        from cnnjax.detection import run as detector_runs
        _no_config("report", overrides)
        print(f"report: {detector_runs.report(options.folder)}")
        return
    if "study" in config or "sweep" in config or "detectors" in config:
        from cnnjax.experiments import depth, ladder, sweep
        part = depth if "study" in config else sweep if "sweep" in config else ladder
        _no_config("report", overrides)
        part.report(options.folder)
        return
    from cnnjax import classification
    finished = (options.folder / "result.json").exists()
    print(f"report: {classification.report(options.folder, overrides=overrides, answers=finished)}")


if __name__ == "__main__":
    sys.exit(main())
