"""`cnnjax summary` and `cnnjax look`: the layers of a network, and pictures of what a trained one has learned."""

import argparse
from pathlib import Path

from cnnjax.config import user_path
from cnnjax.errors import UserError

from .common import REQUIRED, Subparsers, refuse_overrides, subcommand


def add_summary(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "summary", summary,
                        "the layers of a network or detector, as the papers' tables print them")
    parser.add_argument("networks", nargs="*", metavar="NAME",
                        help="such as vgg16; without any: the names there are")
    parser.add_argument("--compare", action="store_true",
                        help="the networks side by side instead of one after the other")
    parser.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    parser.add_argument("--classes", type=int, metavar="N", help="of the last layer; default: the paper's")
    parser.add_argument("--image", type=int, nargs="+", metavar="N",
                        help="height, width and channels; default: the paper's")
    parser.add_argument("--draw", type=user_path, metavar="FILE.svg", help="also draws the network")


def summary(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import detection, models
    from cnnjax.reporting.summary import run_summary
    refuse_overrides("summary", overrides)
    if not options.networks:
        print("\n".join([*models.names(), *detection.names()]))
        return
    print(run_summary(options.networks, num_classes=options.classes, image=options.image, compare=options.compare,
                      form="json" if options.json else "markdown", draw=options.draw))


def add_look(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "look", look,
                        "pictures of what a trained network has learned: kernels, feature maps, Grad-CAM",
                        workdir=REQUIRED)
    parser.add_argument("--image", type=user_path, metavar="FILE", help="to look at; default: the first test images")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="of test images; default 8")
    parser.add_argument("--stage", metavar="NAME", help="where to look; default: the network's last map")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best on validation, else the last")
    parser.add_argument("--landscape", action="store_true",
                        help="instead: the loss surface around the trained network")
    parser.add_argument("--trained", nargs="+", metavar="NAME", default=(), help="of --landscape: networks that come "
                        "with the package, side by side, in place of the run")
    parser.add_argument("--data", type=user_path, metavar="PATH", help="of --trained: a tar or folder of their images")
    parser.add_argument("--anchors", action="store_true", help="instead: a ladder's anchors at the middle of --image")
    parser.add_argument("--proposals", action="store_true", help="instead: the first proposals on --image, by "
                        "selective search, or by a trained network in --workdir that makes its own")
    parser.add_argument("--roi", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"),
                        help="instead: what RoI pooling reads of this region of --image")
    parser.add_argument("--pyramid", type=int, nargs="+", metavar="N", help="instead: the bins of a spatial pyramid "
                        "with so many a side, on --image")


def look(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.experiments import look
    if options.anchors or options.proposals or options.roi or options.pyramid:
        refuse_overrides("look --anchors, --proposals, --roi and --pyramid", overrides)
        print(_draw_detection(options))
        return
    if options.landscape or options.trained:
        if options.trained:
            refuse_overrides("look --trained", overrides)
        print(look.landscape(options.workdir, step=options.step, networks=options.trained, data=options.data,
                             overrides=overrides))
        return
    if options.image is not None:
        refuse_overrides("look --image", overrides)
    for path in look.run(options.workdir, count=options.count, stage=options.stage, step=options.step,
                         image=options.image, overrides=overrides):
        print(path)


def _draw_detection(options: argparse.Namespace) -> Path:
    from cnnjax.data.assemble import read_image
    from cnnjax.detection import pictures
    if options.image is None:
        raise UserError("look --anchors, --proposals, --roi and --pyramid need --image FILE")
    what = ("anchors" if options.anchors else "proposals" if options.proposals else "roi" if options.roi else
            "pyramid")
    return pictures.draw(options.workdir, what, read_image(options.image), options.roi or (), options.pyramid or ())
