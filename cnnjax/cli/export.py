"""`cnnjax export`: a trained network as a file for other programs."""

import argparse

from cnnjax.config import user_path
from cnnjax.errors import UserError

from .common import Subparsers, refuse_overrides, subcommand
from .trained import add_network_options, load_detector, load_network


def add_export(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "export", export, "a trained network or detector as a file for other programs")
    add_network_options(parser)
    parser.add_argument("--format", required=True, choices=("stablehlo", "onnx", "torch", "safetensors"),
                        help="stablehlo: a program of jax.export for any batch size (of a detector, for one image); "
                        "onnx: a graph of a classifier; torch: a state dict; safetensors: the same")
    parser.add_argument("--canvas", type=int, nargs=2, metavar=("H", "W"), help="of a detector's stablehlo: pixels of "
                        "its images; default: the first canvas of its config")
    parser.add_argument("--out", dest="out_file", required=True, type=user_path, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace it where it is there already")


def export(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax import detection
    from cnnjax.interop.export import PLATFORMS, export
    from cnnjax.interop.export_detector import export_detector
    refuse_overrides("export", overrides)
    if options.model in detection.names() or (options.workdir and (options.workdir / "detector.json").exists()):
        for name in ("step", "mean", "std"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is a classifier's; leave it out for a detector")
        trained = load_detector(options)
        canvas = None if options.canvas is None else (options.canvas[0], options.canvas[1])
        worst = export_detector(options.format, options.out_file, trained.detector, trained.classes, trained.variables,
                                canvas=canvas, overwrite=options.overwrite)
        title, what = trained.detector.title, "boxes and scores"
    else:
        if options.canvas is not None:
            raise UserError("--canvas is a detector's; a classifier takes images of one size")
        network = load_network(options)
        worst = export(options.format, options.out_file, network.name, network.module, network.variables,
                       network.image_shape, network.describe(), overwrite=options.overwrite)
        title, what = network.name, "logits"
    platforms = f" for {', '.join(PLATFORMS)}" if options.format == "stablehlo" else ""
    print(f"{options.out_file}: {title} as {options.format}{platforms}; {what} as the network's within {worst:.1e}")
