"""`cnnjax data`: what lies in a data set."""

import argparse

from cnnjax.config import user_path

from .common import Subparsers, refuse_overrides, subcommand


def add_data(subparsers: Subparsers) -> None:
    parser = subcommand(subparsers, "data", data,
                        "what lies in a data set: format, classes, counts, sizes, splits, faults")
    parser.add_argument("path", metavar="PATH", help="a folder, or a table or tar of images")
    parser.add_argument("--task", choices=("classify", "detect"), help="default: detect where there are boxes")
    parser.add_argument("--source", default="auto", metavar="NAME", help="of data.source; default: by the files")
    parser.add_argument("--out", dest="sheet", type=user_path, metavar="PATH", help="writes a contact sheet there, "
                        "boxes drawn: a folder, or a .png")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="also writes all that was found there")


def data(options: argparse.Namespace, overrides: list[str]) -> None:
    from cnnjax.reporting import dataset
    from cnnjax.strict_json import to_json
    refuse_overrides("data", overrides)
    found = dataset.survey(options.path, options.task or "", options.source)
    dataset.show(found)
    if options.sheet is not None:
        print(f"contact sheet: {dataset.write_sheet(found, options.sheet)}")
    if options.json is not None:
        options.json.write_text(to_json(dataset.as_json(found), indent=1) + "\n")
