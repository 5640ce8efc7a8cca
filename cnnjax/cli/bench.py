"""`cnnjax bench`: the speed of this machine."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cnnjax.config import user_path

from .common import Subparsers, load_config, subcommand


def add_bench(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "bench", bench, "speed of this machine, against PyTorch where it is installed",
                        config="configs/train/digits.py")
    parser.add_argument("what", choices=("train", "inference", "levers", "ops", "input", "loop", "data"),
                        help="train, inference: networks, in turn with plain Flax and PyTorch; levers: what each trick "
                        "brings the training step; ops: detection operations, in turn with torchvision; input: JPEG "
                        "files to batches, in turn with torch's DataLoader; loop: the training loop beside its bare "
                        "step; data: reading, cropping and streaming beside the step")
    parser.add_argument("networks", nargs="*", default=("resnet20", "resnet56"), metavar="NAME",
                        help="of train, inference and levers; default resnet20 resnet56")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="images; default 128")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="measured steps of each; default 9")
    parser.add_argument("--torch-python", type=user_path, default=Path(sys.executable), metavar="FILE",
                        help="an interpreter that has PyTorch; default: this one")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="also writes the figures there")


def bench(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.bench import data, loop, networks, ops, verdict
    from cnnjax.bench import input as inputs
    from cnnjax.configs import defaults
    from cnnjax.reporting import tables
    from cnnjax.strict_json import to_json
    result: Any
    lines: list[str] = []
    print(verdict.cpu())
    if options.what == "ops":
        result = ops.measure(options.rounds)
        print(ops.table(result))
        lines = ops.verdicts(result)
    elif options.what == "input":
        result = inputs.run(options.rounds, str(options.torch_python))
        tables.show(inputs.HEADER, inputs.table(result))
        lines = inputs.verdicts(result)
    elif options.what in ("loop", "data"):
        part = loop if options.what == "loop" else data
        result = part.run(load_config(options, overrides, defaults.classification()), options.rounds)
        tables.show(part.HEADER, part.table(result))
    else:
        result = networks.run(options.what, options.networks, options.batch, options.rounds,
                              str(options.torch_python))
        tables.show(networks.HEADER, networks.table(result))
        lines = networks.verdicts(result)
    for line in lines:
        print(line)
    if options.json is not None:
        options.json.write_text(to_json(result, indent=1) + "\n")
