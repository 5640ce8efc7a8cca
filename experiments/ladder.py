"""The ladder: detectors trained one after the other on the same images and backbone, compared in accuracy and time.

It is a list of configs of one detector, each a cell of its own in `WORKDIR/cells`, so that a study that was stopped
goes on where it was. The report is made from the files of the cells alone: `report(workdir)` makes it again without
training.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from cnnjax import detection
from cnnjax.config import nearest
from cnnjax.data.detection_sets import DetectionData
from cnnjax.detection import run as detector_runs
from cnnjax.detection import settings
from cnnjax.detection.run import COUNTS
from cnnjax.errors import UserError
from cnnjax.reporting import html, tables
from cnnjax.training import distributed
from cnnjax.training import workdir as workdirs
from cnnjax.training.task import OnEval

HEADER = ("detector", "family", "mAP %", "COCO AP %", "small", "medium", "large", "s/image", "proposals s", "network s",
          "rest s", "training min", "proposals min", "disk MB")


def run(config: ConfigDict, workdir: Path, on_eval: OnEval | None = None) -> None:
    """Trains and tests every detector that is not finished, then writes and prints the report.

    `on_eval` is told of the evaluations on validation images, as in `cnnjax.training.task`.
    """
    check(config)
    with workdirs.claim(workdir, config):
        data = detector_runs.load_data(config)
        keep_data(workdir, data)
        for name in config.detectors:
            detector_runs.train_and_test(settings.alone(config, name), data, workdir / "cells" / name,
                                         workdir / "cells", on_eval)
        if distributed.is_writer():
            report(workdir)


def keep_data(workdir: Path, data: DetectionData) -> None:
    """Writes the counts and notes of the data as `data.json`.

    Raises UserError where the ladder was begun with another split, drawn by seed of other images.
    """
    path, split = workdir / "data.json", {name: list(images) for name, images in data.split.items()}
    before = json.loads(path.read_text()).get("split") if path.exists() else None
    if before is not None and before != split:
        raise UserError(f"workdir {workdir} was begun with another split of the data, drawn of other images than there "
                        "are now; choose another --workdir")
    if distributed.is_writer():
        workdirs.write(path, workdirs.to_json({
            "classes": data.classes, "train": len(data.train), "test": len(data.test),
            "validation": len(data.validation or ()), "skipped": data.skipped, "unused": data.unused,
            "notes": data.notes, "split": split}, indent=1) + "\n")


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field for a ladder that cannot be run."""
    if not config.detectors or len(set(config.detectors)) < len(config.detectors):
        raise UserError(f"config field 'detectors': found {config.detectors}, expected one or more different ones")
    for name in config.detectors:
        if name not in detection.names():
            raise UserError(f"config field 'detectors': found {name!r}, expected one of {', '.join(detection.names())}"
                            f"{nearest(str(name), detection.names())}")
        if name not in config:
            raise UserError(f"config field 'detectors': found {name!r}, but the config has no group {name!r}")
    settings.check(config)


def report(workdir: Path) -> Path:
    """Prints the table of the finished cells of `workdir`, writes the figure, table.md and report.html."""
    config = workdirs.read_config(workdir)
    folders = {name: workdir / "cells" / name for name in detection.names() if name in config.detectors}
    results = {name: workdirs.with_nan(json.loads((folder / "result.json").read_text()))
               for name, folder in folders.items() if (folder / "result.json").exists()}
    if not results:
        raise UserError(f"{workdir} has no finished detector to report")
    data = json.loads((workdir / "data.json").read_text())
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    figure(results, figures / "ladder.png")
    main, classes, recall = table(results), class_table(results), recall_table(results)
    sentences = verdict(results)
    title = f"The ladder of detectors, {data['train']} images to train, {data['test']} to test"
    parts = [html.image(figures / "ladder.png", "mAP over seconds an image, a line for each family."),
             html.table(*main)]
    parts += [html.heading("Each detector against the one before it"), *map(html.paragraph, sentences)]
    parts += [html.heading("AP50 of each class, %"), html.table(*classes)]
    parts += [html.heading("Recall of proposals at IoU 0.5, %"), html.table(*recall)]
    for name, result in results.items():
        parts += [html.heading(result["title"]),
                  html.image(folders[name] / "figures" / "detections.png",
                             "Above the ground truth, below the detections.")]
    parts += data_parts(data)
    parts += [html.heading("Config"), html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "table.md", "\n".join(tables.markdown(*t) for t in (main, classes, recall)))
    path = workdir / "report.html"
    workdirs.write(path, html.page(title, parts))
    for shown, name in ((main, title), (classes, "AP50 of each class, %"), (recall, "recall of proposals, %")):
        tables.show(*shown, title=name)
    print("\n".join(sentences))
    print(f"report: {path}")
    return path


def data_parts(data: dict[str, Any]) -> list[str]:
    """What data.json says of faults, of what is there and not used, and of what was chosen, for the report."""
    parts = []
    for what, lines in (("faulty, skipped", data["skipped"]), ("not used", data.get("unused", [])),
                        ("notes on the data", data.get("notes", []))):
        if lines:
            parts += [html.heading(f"{len(lines)} {what}"), html.code("\n".join(lines))]
    return parts


Table = tuple[Sequence[str], list[list[str]]]


def table(results: dict[str, dict[str, Any]]) -> Table:
    """Accuracy, with COCO AP by size of the object, the seconds an image and where they go, training time, disk; the
    detectors of two stages first. "+" marks a training that was resumed, whose time is of its last part."""
    rows = []
    for r in (r for members in families(results).values() for r in members):
        parts, coco = r["image_seconds"], r["coco"]
        rows.append([r["title"], family(r), f"{100 * r['map']:.1f}",
                     *(tables.percent(coco[f"AP{size}"]) for size in ("", " small", " medium", " large")),
                     f"{sum(parts.values()):.3f}", *(f"{parts[p]:.3f}" for p in ("proposals", "network", "rest")),
                     f"{r['seconds'] / 60:.1f}" + ("+" if r["resumed"] else ""), f"{r['proposal_seconds'] / 60:.1f}",
                     f"{r['disk_bytes'] / 1e6:.1f}"])
    return HEADER, rows


def family(result: dict[str, Any]) -> str:
    """Whether a detector classifies proposals or finds objects in one stage."""
    return "two-stage" if result["proposals_by"] else "one-stage"


def families(results: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The results by family, in the order of the papers."""
    found = {name: [r for r in results.values() if family(r) == name] for name in ("two-stage", "one-stage")}
    return {name: members for name, members in found.items() if members}


def class_table(results: dict[str, dict[str, Any]]) -> Table:
    """AP50 of each class."""
    classes = list(next(iter(results.values()))["ap"])
    return ("detector", *classes), [[r["title"], *(f"{100 * r['ap'][c]:.1f}" for c in classes)]
                                    for r in results.values()]


def recall_table(results: dict[str, dict[str, Any]]) -> Table:
    """Recall at the first 50 to 2,000 proposals of selective search and of the region proposal network."""
    rows = {}
    for r in results.values():
        source = r["proposals_by"]
        if not source:
            continue
        rows[source] = [source, f"{r['proposals']:.0f}", *(f"{100 * r['recall'][str(n)]:.1f}" for n in COUNTS)]
    return ("proposals", "an image", *map(str, COUNTS)), list(rows.values())


def verdict(results: dict[str, dict[str, Any]]) -> list[str]:
    """What each detector of a family gained over the one before, three sentences of its numbers: the time of an
    image, the accuracy, and what its training took."""
    told = []
    for before, after in (pair for members in families(results).values() for pair in pairwise(members)):
        a, b = (sum(r["image_seconds"].values()) for r in (before, after))
        gain = {key: 100 * (after["coco"][key] - before["coco"][key])
                for key in ("AP", "AP small", "AP medium", "AP large")}
        by_size = {key.removeprefix("AP "): value for key, value in gain.items() if key != "AP" and value == value}
        most = max(by_size, key=lambda size: abs(by_size[size]), default="")
        sizes = f", most of {most} objects, {by_size[most]:+.1f}" if most else ""
        told.append(
            f"{after['title']} takes {b:.3f} s an image, {before['title']} {a:.3f} s: {a / b:.1f} times as fast"
            f"{', so not faster' if b >= a else ''}. Its mAP is {100 * (after['map'] - before['map']):+.1f} points, "
            f"its COCO AP {gain['AP']:+.1f}{sizes}. It was trained in {_minutes(after)}, keeping "
            f"{after['disk_bytes'] / 1e6:.1f} MB on disk, against {_minutes(before)} and "
            f"{before['disk_bytes'] / 1e6:.1f} MB.")
    return told


def _minutes(result: dict[str, Any]) -> str:
    """The time that a training took, that of the proposals it needs beside it."""
    proposals = f" and {result['proposal_seconds'] / 60:.1f} of proposals" if result["proposal_seconds"] else ""
    return f"{result['seconds'] / 60:.1f} min{proposals}{' since it was resumed' if result['resumed'] else ''}"


def figure(results: dict[str, dict[str, Any]], path: Path) -> None:
    """mAP over seconds an image, a point a detector, those of a family joined in the order of the papers."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axis = drawing.subplots()
    for (name, members), style in zip(families(results).items(), ("o-", "s--"), strict=False):
        places = [(sum(r["image_seconds"].values()), 100 * r["map"]) for r in members]
        axis.plot(*zip(*places, strict=True), style, markersize=8, label=name)
        for r, place in zip(members, places, strict=True):
            axis.annotate(r["title"], place, textcoords="offset points", xytext=(8, 6))
    axis.set_xscale("log")
    axis.margins(0.2)
    axis.set_xlabel("seconds an image, proposals included")
    axis.set_ylabel("mAP, %")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    drawing.savefig(path, dpi=150)
