"""The trained classifier or detector that `predict`, `detect` and `export` use: its options, and how it is loaded."""

import argparse
from typing import TYPE_CHECKING

from cnnjax.config import user_path
from cnnjax.errors import UserError

if TYPE_CHECKING:
    from cnnjax import predict
    from cnnjax.detection.saved import Saved


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that `load_network` reads."""
    group = parser.add_argument_group("the network: a run, or weights by name")
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


def load_network(options: argparse.Namespace) -> "predict.Network":
    """The classifier of a run, or of weights by name."""
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


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """The options that `load_detector` reads."""
    group = parser.add_argument_group("the detector: one that a ladder trained, or torchvision's weights by name")
    group.add_argument("--workdir", type=user_path, metavar="DIR", help="of the detector: runs/ladder/cells/NAME")
    group.add_argument("--model", metavar="NAME", help="of the detector of --weights: fasterrcnn_resnet50_fpn, "
                       "retinanet_resnet50_fpn, ssd300_vgg16")
    group.add_argument("--weights", type=user_path, metavar="FILE", help="of torchvision (.pth, .safetensors)")
    group.add_argument("--classes", type=user_path, metavar="FILE", help="their names, one a line, or JSON; default: "
                       "COCO's where they are as many")


def load_detector(options: argparse.Namespace) -> "Saved":
    """The detector of a workdir, or of torchvision's weights by name."""
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
