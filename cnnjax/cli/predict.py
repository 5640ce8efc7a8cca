"""`cnnjax predict` and `cnnjax detect`: the classes of images, and boxes on them, by trained networks."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cnnjax.config import user_path
from cnnjax.errors import UserError

from .common import Subparsers, refuse_overrides, subcommand
from .trained import add_detector_options, add_network_options, load_detector, load_network


def add_predict(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "predict", predict, "the classes of images, by a trained network")
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="a file, or a folder of them")
    add_network_options(parser)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes an image; default 5")
    parser.add_argument("--flip", action="store_true", help="the mean over the image and its mirror image")
    parser.add_argument("--ten-crop", action="store_true", help="the mean over four corners and centre, mirrored too")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="also written there as JSON")
    parser.add_argument("--csv", type=user_path, metavar="FILE", help="also written there as CSV")
    parser.add_argument("--sheet", type=user_path, metavar="FILE.png", help="a contact sheet: the images with their "
                        "first classes")
    parser.add_argument("--overwrite", action="store_true", help="replace those files where they are there already")


def predict(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import predict
    from cnnjax.reporting import tables
    refuse_overrides("predict", overrides)
    if options.top < 1:
        raise UserError(f"--top {options.top}: expected at least 1")
    predictions, unread = predict.run(
        load_network(options), options.images, top=options.top, flip=options.flip, ten_crop=options.ten_crop,
        json_file=options.json, csv_file=options.csv, sheet=options.sheet, overwrite=options.overwrite)
    if predictions:
        tables.show(("image", "class", "probability, %"), predict.to_table(predictions))
    if unread:
        raise UserError(f"{len(unread)} of {len(unread) + len(predictions)} images cannot be read, and are left out")


def add_detect(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "detect", detect, "boxes on images, drawn, by a trained detector")
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="a file, or a folder of them")
    add_detector_options(parser)
    parser.add_argument("--out", type=user_path, default=Path("detections"), metavar="DIR", help="default detections")
    parser.add_argument("--score-threshold", type=float, metavar="S", help="detections under it are left out; default: "
                        "the detector's")
    parser.add_argument("--least-score", dest="score_threshold", type=float, action=_OldName, help=argparse.SUPPRESS)


class _OldName(argparse.Action):
    """An option's old name, accepted for one more version with a notice."""

    def __call__(self, parser: Any, options: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        print(f"{option_string} is called --{self.dest.replace('_', '-')} now: the next version will not know its old "
              "name", file=sys.stderr)
        setattr(options, self.dest, values)


def detect(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.detection import detect
    refuse_overrides("detect", overrides)
    trained = load_detector(options)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = detect.detect(trained, options.images, options.out, options.score_threshold)
    for row in rows:
        print(f"{row['file']}: {len(row['detections'])} boxes, drawn as {row['drawing']}")
    print(f"drawings and detections.json: {options.out}")
