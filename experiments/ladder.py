"""The ladder of detectors on the same images and backbone, and what each step bought.

It is a list of configs of one detector, each a cell of its own in `WORKDIR/cells`, so that a study that was stopped
goes on where it was. The report is made from the files of the cells alone: `report(workdir)` makes it again without
training.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import detection
from cnnjax.config import nearest
from cnnjax.data import detection as datasets
from cnnjax.data.detection import DetectionData, DetectionSet
from cnnjax.detection import inference, pretraining, saved, settings, stages
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.inference import Prediction
from cnnjax.detection.proposals import Cache, Proposals
from cnnjax.errors import UserError
from cnnjax.evaluation.coco_ap import coco_ap
from cnnjax.evaluation.voc_ap import proposal_recall, voc_ap
from cnnjax.reporting import boxes, html, tables
from cnnjax.training import distributed
from cnnjax.training import workdir as workdirs
from cnnjax.training.task import OnEval

COUNTS = (50, 100, 200, 500, 1000, 2000)
SAMPLES = 4         # test images that the report shows
HEADER = ("detector", "family", "mAP %", "COCO AP %", "small", "medium", "large", "s/image", "proposals s", "network s",
          "rest s", "training min", "proposals min", "disk MB")


def run(config: ConfigDict, workdir: Path, on_eval: OnEval | None = None) -> None:
    """Trains and tests every detector that is not finished, then writes and prints the report.

    `on_eval` is told of the evaluations on validation images, as in `cnnjax.training.task`.
    """
    check(config)
    with workdirs.claim(workdir, config):
        data, validation = _load(config, workdir)
        for name in config.detectors:
            cell(settings.alone(config, name), data, validation, workdir / "cells" / name, workdir / "cells", on_eval)
        if distributed.is_writer():
            report(workdir)


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains, tests and reports one detector: a ladder of one step, whose workdir is that step's."""
    settings.check_alone(config)
    with workdirs.claim(workdir, config):
        cell(config, *_load(config, workdir), workdir, workdir)
        if distributed.is_writer():
            report(workdir)


def evaluate(workdir: Path) -> dict[str, Any]:
    """What `result.json` holds of the detector that `train`, or a ladder's cell, left in `workdir`, measured again on
    its test images; the report is made again too. Raises UserError where the data has other classes now."""
    config, (detector, classes, variables) = workdirs.read_config(workdir), saved.load(workdir)
    with workdirs.claim(workdir, config):
        data, _ = _load(config, workdir)
        if data.classes != classes:
            raise UserError(f"{workdir}: the detector knows {', '.join(classes)}, the data has "
                            f"{', '.join(data.classes)}")
        shared = workdir if (workdir / "proposals").exists() else workdir.parent
        _test(config, data, workdir, shared, detector, variables)
        report(workdir)
    return json.loads((workdir / "result.json").read_text())


def _load(config: ConfigDict, workdir: Path) -> tuple[DetectionData, DetectionSet | None]:
    """The data set without the validation images, and those; what there is to say of it is kept and said."""
    data, validation = datasets.load(config.data, config.seed), None
    if config.data.validation:
        kept, validation = datasets.hold_out(data.train, config.data.validation, config.seed)
        data = data._replace(train=kept)
    keep_data(workdir, data, config.data.validation)
    return data, validation


def keep_data(workdir: Path, data: DetectionData, validation: int = 0) -> None:
    """Writes what there is to say of the data as `data.json`, and says it; `validation` images were held out.

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
            "validation": validation, "skipped": data.skipped, "unused": data.unused,
            "notes": data.notes, "split": split}, indent=1) + "\n")
        for line in data.said():
            print(line)


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


def cell(config: ConfigDict, data: DetectionData, validation: DetectionSet | None, folder: Path, shared: Path,
         on_eval: OnEval | None = None) -> None:
    """Trains and tests one detector; `result.json` in its folder says that it is done.

    In the folder `shared` lie the proposals and the pre-trained backbone, which serve other detectors too. Of several
    processes all do so, and one writes.
    """
    if (folder / "result.json").exists():
        return
    detector = settings.create(config, len(data.classes))
    search = Cache(shared / "proposals", detector.proposals) if detector.needs_proposals else None
    resumed = (folder / workdirs.METRICS).exists() or any(folder.glob(f"*/{workdirs.METRICS}"))
    if not (folder / "detector.json").exists():
        source = None
        if "windows" in config:
            source = pretraining.backbone(settings.window_classifier(config, len(data.classes)), config.pretraining,
                                          data.train, config.seed, config.data.flip, shared / "backbone")
        elif getattr(detector, "pretrained", {}):
            source = pretraining.trunk(detector.backbone)
        if search is not None:
            _proposals(search, data)            # timed on their own, kept for all
        began = time.perf_counter()
        setup = stages.Setup(data.train, config, config.seed, config.data.flip, config.data.jitter,
                             pretraining.init_variables(detector, config.seed, source),
                             lambda: [p.boxes for p in _proposals(search, data)] if search is not None else [],
                             partial(_validate, validation, data.classes, config, search) if validation else None,
                             config.transforms)
        variables = stages.run(stages.stages_of(detector, setup), config, folder, on_eval)
        took = {"seconds": time.perf_counter() - began, "resumed": resumed}
        if distributed.is_writer():
            workdirs.write(folder / "config.json", configs.dump(config))
            workdirs.write(folder / "training.json", workdirs.to_json(took) + "\n")
            saved.save(folder, config.model.name, detector, data.classes, variables)
    else:
        variables = saved.load(folder).variables
    _test(config, data, folder, shared, detector, variables)


def _test(config: ConfigDict, data: DetectionData, folder: Path, shared: Path, detector: Any, variables: Variables,
          ) -> None:
    """Writes `result.json`, the scores and times of a trained detector on the test images, and a picture of some."""
    search = Cache(shared / "proposals", detector.proposals) if detector.needs_proposals else None
    variables = jax.device_put(variables)
    found = []
    for i in range(len(data.test)):
        image = data.test.read(i)
        inference.predict(detector, variables, image, search)       # compiles where a size is new; the second is timed
        found.append(inference.predict(detector, variables, image, search))
    if not distributed.is_writer():
        return
    _samples(detector, data, found, folder / "figures" / "detections.png")
    result = {**scores(found, data, config.eleven_points), **json.loads((folder / "training.json").read_text()),
              "title": detector.title,
              "proposals_by": _proposer(detector, found),
              "proposal_seconds": sum(p.seconds for p in _proposals(search, data)) if search is not None else 0.0,
              "disk_bytes": _disk(folder / "features", shared / "proposals" if search is not None else None),
              "hardware": f"{jax.devices()[0].device_kind}, {jax.device_count()} device"}
    workdirs.write(folder / "result.json", workdirs.to_json(result, indent=1) + "\n")


def _validate(images: DetectionSet, classes: Sequence[str], config: ConfigDict, search: Cache | None,
              detector: Detector, variables: Variables) -> dict[str, Any]:
    """mAP and COCO AP on the validation images."""
    variables = jax.device_put(variables)
    found = [inference.predict(detector, variables, images.read(i), search).detections for i in range(len(images))]
    ap = voc_ap(found, images.objects, len(classes), eleven_points=config.eleven_points)
    return {"examples": len(images), "map": float(np.nanmean(ap)),
            "coco_ap": coco_ap(found, images.objects, len(classes))["AP"]}


def _proposals(search: Cache, data: DetectionData) -> list[Proposals]:
    """Those of each training image, made where they are not kept yet."""
    return search.all(data.train.read(i) for i in range(len(data.train)))


def scores(found: Sequence[Prediction], data: DetectionData, eleven_points: bool) -> dict[str, Any]:
    """Accuracy, proposal recall and median seconds an image of what a detector found on the test images."""
    detections, truths = [f.detections for f in found], data.test.objects
    ap = voc_ap(detections, truths, len(data.classes), eleven_points=eleven_points)
    return {"map": float(np.nanmean(ap)), "ap": dict(zip(data.classes, ap.tolist(), strict=True)),
            "coco": coco_ap(detections, truths, len(data.classes)),
            "recall": {str(n): r for n, r in proposal_recall([f.proposals for f in found], truths, COUNTS).items()},
            "proposals": float(np.mean([len(f.proposals) for f in found])),
            "image_seconds": {part: float(np.median([f.seconds[part] for f in found]))
                              for part in ("proposals", "network", "rest")}}


def _proposer(detector: Detector, found: Sequence[Prediction]) -> str:
    """What makes a detector's proposals; "" for one without."""
    if detector.needs_proposals:
        return "selective search"
    return "region proposal network" if any(len(f.proposals) for f in found) else ""


def _disk(*folders: Path | None) -> int:
    """Bytes of proposals and features that a detector's training keeps on disk."""
    return sum(file.stat().st_size for folder in folders if folder is not None for file in folder.glob("*.npz"))


def _samples(detector: Detector, data: DetectionData, found: Sequence[Prediction], path: Path) -> None:
    """The first test images with the ground truth (above) and the detections (below)."""
    above, below = [], []
    for i in range(min(SAMPLES, len(found))):
        image, truth, d = data.test.read(i), data.test.objects[i], found[i].detections
        above.append(boxes.draw(image, truth.boxes, [data.classes[c] for c in truth.classes],
                                [boxes.COLOURS[c % len(boxes.COLOURS)] for c in truth.classes]))
        below.append(boxes.draw_detections(image, d.boxes, d.scores, d.classes, data.classes,
                                           detector.default_score_threshold))
    boxes.save(boxes.grid([above, below]), path)


def report(workdir: Path) -> Path:
    """Prints the table of the finished cells of `workdir`, writes the figure, table.md and report.html."""
    config = workdirs.read_config(workdir)
    folders = {config.model.name: workdir} if "model" in config else {
        name: workdir / "cells" / name for name in detection.names() if name in config.detectors}
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
    what = next(iter(results.values()))["title"] if "model" in config else "The ladder of detectors"
    title = f"{what}, {data['train']} images to train, {data['test']} to test"
    parts = [html.paragraph(s) for s in sentences]
    parts += [html.image(figures / "ladder.png", "mAP over seconds an image."), html.table(*main)]
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
                     *(f"{100 * coco[f'AP{size}']:.1f}" for size in ("", " small", " medium", " large")),
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
    """What each step of a family bought, in words with its numbers, and whether it is faster than the one before."""
    sentences = []
    for before, after in (pair for members in families(results).values() for pair in pairwise(members)):
        a, b = (sum(r["image_seconds"].values()) for r in (before, after))
        gain = 100 * (after["map"] - before["map"])
        sentences.append(f"{after['title']} takes {b:.3f} s an image, {before['title']} {a:.3f} s: {a / b:.1f} times "
                         "as fast" + (", so not faster" if b >= a else "") + f"; its mAP is {gain:+.1f} points.")
    return sentences


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
