"""Train one detector, test it on held-out images, and write its report."""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.data import detection as datasets
from cnnjax.data.detection_sets import DetectionData, DetectionSet
from cnnjax.data.minibatches import Batches
from cnnjax.detection import inference, pretraining, saved, settings, stages
from cnnjax.detection.detector import Detector, Variables
from cnnjax.detection.inference import Prediction
from cnnjax.detection.proposals import Cache, Proposals
from cnnjax.errors import UserError
from cnnjax.evaluation.coco_ap import coco_ap
from cnnjax.evaluation.detection_errors import outcomes, sizes_of
from cnnjax.evaluation.voc_ap import proposal_recall, voc_ap, voc_curve
from cnnjax.models.layers import as_at_test
from cnnjax.networks import said
from cnnjax.reporting import boxes, html, tables
from cnnjax.reporting import detector as reporting
from cnnjax.training import distributed
from cnnjax.training import run as runs
from cnnjax.training import workdir as workdirs
from cnnjax.training.state import HYPERPARAMETERS
from cnnjax.training.task import OnEval

COUNTS = (50, 100, 200, 500, 1000, 2000)
"""Of proposals, whose recall is measured."""

TIMED = 100
"""Test images on which the seconds of an image are measured, each once it has been run before."""

SAMPLES = 4
"""Test images that are drawn whatever was found on them."""

SPLITS = ("train", "validation", "test")


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains, tests and reports one detector, going on from what is there."""
    settings.check_alone(config)
    with workdirs.claim(workdir, config):
        data = load_data(config)
        train_and_test(config, data, workdir, workdir)
        if distributed.is_writer():
            result = json.loads((workdir / "result.json").read_text())
            print(f"{summary(workdirs.with_nan(result))}\nreport: {report(workdir)}")


def load_data(config: ConfigDict) -> DetectionData:
    """The data set of a config; prints its notes, and how much of it is left out."""
    data = datasets.load(config.data, config.seed)
    if distributed.is_writer():
        for line in data.said():
            print(line)
    return data


def train_and_test(config: ConfigDict, data: DetectionData, folder: Path, shared: Path,
                   on_eval: OnEval | None = None) -> None:
    """Trains and tests one detector; `result.json` in its folder says that it is done.

    The folder `shared` holds the proposals and the pre-trained backbone, which other detectors use too. Of several
    processes all run this, and one writes. `on_eval` is told of the evaluations on validation images, as in
    `cnnjax.training.task`.
    """
    if (folder / "result.json").exists():
        return
    detector = settings.create(config, len(data.classes))
    held = data.validation if getattr(detector, "scored_in_training", True) else None
    if distributed.is_writer():
        folder.mkdir(parents=True, exist_ok=True)
        workdirs.write(folder / "config.json", configs.dump(config))
    runs.describe(folder, describe(detector, data), ("validation_map", "max") if held is not None else None)
    search = Cache(shared / "proposals", detector.proposals) if detector.needs_proposals else None
    resumed = (folder / workdirs.METRICS).exists() or any(folder.glob(f"*/{workdirs.METRICS}"))
    if not (folder / "detector.json").exists():
        variables = _begin(config, detector, data, shared)
        if search is not None:
            _proposals(search, data.train)      # timed on their own, kept for all
        began = time.perf_counter()
        setup = stages.Setup(data.train, config, config.seed, config.data.flip, config.data.jitter, variables,
                             lambda: [p.boxes for p in _proposals(search, data.train)] if search is not None else [],
                             None if held is None else partial(_validate, held, data.classes, config, search),
                             config.transforms)
        variables = stages.run(stages.stages_of(detector, setup), config, folder, on_eval)
        took = {"seconds": time.perf_counter() - began, "resumed": resumed}
        if distributed.is_writer():
            workdirs.write(folder / "training.json", workdirs.to_json(took) + "\n")
            saved.save(folder, config.model.name, detector, data.classes, variables)
    else:
        variables = saved.load(folder).variables
    _test(config, data, folder, shared, detector, variables)


def describe(detector: Any, data: DetectionData) -> dict[str, Any]:
    """What using the trained detector needs beside its files, and notes on its data, for run.json."""
    images = {"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)}
    pixels = getattr(detector, "backbone", detector)
    known = {name: list(getattr(pixels, name)) for name in ("mean", "std") if hasattr(pixels, name)}
    return {"classes": list(data.classes), **known, "images": images, "left_out": list(data.left_out),
            "notes": list(data.notes), "split": {name: list(names) for name, names in data.split.items()}}


def _begin(config: ConfigDict, detector: Any, data: DetectionData, shared: Path) -> Variables:
    """The variables before the first step: of the weights that the config names, of a pre-training, or random."""
    if config.init.weights:
        variables, new = pretraining.from_detector(detector, config.model.name, config.init.weights, data.classes,
                                                   config.seed)
        if distributed.is_writer():
            print(said(config.init.weights, new))
        return variables
    source = None
    if "windows" in config:
        source = pretraining.backbone(settings.window_classifier(config, len(data.classes)), config.pretraining,
                                      data.train, config.seed, config.data.flip, shared)
    elif getattr(detector, "pretrained", {}):
        source = pretraining.trunk(detector.backbone)
    return pretraining.init_variables(detector, config.seed, source)


def _proposals(search: Cache, images: DetectionSet) -> list[Proposals]:
    """Those of each image, made where they are not kept yet."""
    return search.all(images.read(i) for i in range(len(images)))


# In training

def _validate(images: DetectionSet, classes: Sequence[str], config: ConfigDict, search: Cache | None,
              detector: Detector, variables: Variables) -> dict[str, Any]:
    """Loss, mAP and COCO AP on the validation images."""
    variables = jax.device_put(variables)
    found = [inference.predict(detector, variables, images.read(i), search).detections for i in range(len(images))]
    ap = voc_ap(found, images.objects, len(classes), eleven_points=config.eleven_points)
    return {"examples": len(images), "loss": validation_loss(detector, variables, images, config, search),
            "map": float(np.nanmean(ap)), "coco_ap": coco_ap(found, images.objects, len(classes))["AP"]}


def validation_loss(detector: Any, variables: Variables, images: DetectionSet, config: ConfigDict,
                    search: Cache | None = None) -> float:
    """The mean over images, as they are, of a detector's loss with running statistics and without dropout. What the
    loss samples of an image is the same each time."""
    proposals = [p.boxes for p in _proposals(search, images)] if search is not None else None
    batches = Batches(images, detector.canvases, 1, config.seed, proposals=proposals,
                      stretch=getattr(detector, "stretch", False))
    hyper = {name: jnp.float32(config.optimizer[name]) for name in HYPERPARAMETERS}
    return float(np.mean([_loss(detector, variables, batches.example(i), jax.random.key(i), hyper)
                          for i in range(len(images))]))


@partial(jax.jit, static_argnums=0)
def _loss(detector: Detector, variables: Variables, batch: Any, key: jax.Array, hyper: Any) -> jax.Array:
    with as_at_test():
        return detector.loss(variables, batch, key, hyper)[0]


# On test

def _test(config: ConfigDict, data: DetectionData, folder: Path, shared: Path, detector: Any, variables: Variables,
          ) -> None:
    """Writes `result.json`, the scores and times of a trained detector on the test images, and its figures."""
    search = Cache(shared / "proposals", detector.proposals) if detector.needs_proposals else None
    found = detect_all(detector, variables, data.test, search, TIMED)
    if not distributed.is_writer():
        return
    figures = folder / "figures"
    _samples(detector, data, found, figures / "detections.png")
    result = {**judge(detector, data.classes, data.test, found, config.eleven_points, figures),
              **json.loads((folder / "training.json").read_text()), "title": detector.title,
              "proposals_by": _proposer(detector, found),
              "proposal_seconds": sum(p.seconds for p in _proposals(search, data.train)) if search is not None else 0.0,
              "disk_bytes": _disk(folder / "features", shared / "proposals" if search is not None else None),
              "hardware": f"{jax.devices()[0].device_kind}, {jax.device_count()} device"}
    workdirs.write(folder / "result.json", workdirs.to_json(result, indent=1) + "\n")


def detect_all(detector: Any, variables: Variables, images: DetectionSet, search: Cache | None,
               timed: int = 0) -> list[Prediction]:
    """The detections on each image. The first `timed` are detected twice, since the first of a size compiles."""
    variables, found = jax.device_put(variables), []
    for i in range(len(images)):
        image = images.read(i)
        for _ in range(1 + (i < timed)):
            prediction = inference.predict(detector, variables, image, search)
        found.append(prediction)
    return found


def judge(detector: Any, classes: Sequence[str], images: DetectionSet, found: Sequence[Prediction],
          eleven_points: bool, figures: Path) -> dict[str, Any]:
    """Accuracy, errors, proposal recall and median seconds an image of what a detector found; draws its `figures`.

    Errors are counted at the detector's threshold of scores.
    """
    detections, truths = [f.detections for f in found], images.objects
    curves = [voc_curve(detections, truths, c, eleven_points=eleven_points) for c in range(len(classes))]
    at = detector.default_score_threshold
    errors = outcomes(detections, truths, len(classes), at)
    figures.mkdir(parents=True, exist_ok=True)
    reporting.precision_recall_figure(curves, classes, figures / "precision_recall.png")
    reporting.confusion_figure(errors.confusion, classes, figures / "confusion.png")
    reporting.examples_figures(images, detections, errors, classes, at, figures)
    timed = found[:TIMED]
    return {"map": float(np.nanmean([curve.ap for curve in curves])),
            "ap": {name: curve.ap for name, curve in zip(classes, curves, strict=True)},
            "coco": coco_ap(detections, truths, len(classes)), "objects_by_size": sizes_of(truths),
            "score_threshold": at, "errors": reporting.class_rows(errors, classes),
            "recall": {str(n): r for n, r in proposal_recall([f.proposals for f in found], truths, COUNTS).items()},
            "proposals": float(np.mean([len(f.proposals) for f in found])), "examples": len(images),
            "image_seconds": {part: float(np.median([f.seconds[part] for f in timed]))
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
    first = range(min(SAMPLES, len(found)))
    boxes.save(reporting.truth_and_found(data.test, [f.detections for f in found], list(first), data.classes,
                                         detector.default_score_threshold), path)


def evaluate(workdir: Path, split: str = "test", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of `judge` of the detector that `train`, or a ladder's cell, left in `workdir`, measured again on a
    split; the report is written of it. Those of the test split replace its part of `result.json`.

    `overrides` set fields of the group `data`, since data moves. Raises UserError for a split that is not there, data
    of other classes, and test images that were trained on.
    """
    configs.check_of_data(overrides)
    config, (detector, classes, variables) = workdirs.read_config(workdir), saved.load(workdir)
    judged = configs.with_overrides(config, overrides)
    with workdirs.claim(workdir, config):
        data = load_data(judged)
        if data.classes != classes:
            raise UserError(f"{workdir}: the detector knows {', '.join(classes)}, the data has "
                            f"{', '.join(data.classes)}")
        runs.check_split(runs.description(workdir), data.split, workdir)
        images = {"train": data.train, "validation": data.validation, "test": data.test}[split]
        if images is None:
            raise UserError(f"--split {split}: the run in {workdir} was made without validation images; set "
                            "--config.data.validation_split")
        own = (workdir / "proposals").exists()
        search = Cache((workdir if own else workdir.parent) / "proposals",
                       detector.proposals) if detector.needs_proposals else None
        of_test = split == "test" and not overrides
        figures = workdir / "figures" if of_test else workdir / "figures" / split
        result = judge(detector, classes, images, detect_all(detector, variables, images, search, TIMED),
                       config.eleven_points, figures)
        before = workdirs.with_nan(json.loads((workdir / "result.json").read_text()))
        if of_test:
            workdirs.write(workdir / "result.json", workdirs.to_json({**before, **result}, indent=1) + "\n")
        _write_report(workdir, {**before, **result}, split, figures)
    return result


def report(workdir: Path) -> Path:
    """Writes `report.html` of a detector's run: its curves so far and, where it is tested, its scores and figures."""
    path = workdir / "result.json"
    result = workdirs.with_nan(json.loads(path.read_text())) if path.exists() else None
    return _write_report(workdir, result, "test", workdir / "figures")


def _write_report(workdir: Path, result: dict[str, Any] | None, split: str, figures: Path) -> Path:
    config, data = workdirs.read_config(workdir), runs.description(workdir)
    rows = {folder.name if folder != workdir else "": workdirs.read_rows(folder / workdirs.METRICS)
            for folder in (workdir, *sorted(p.parent for p in workdir.glob(f"*/{workdirs.METRICS}")))}
    title = settings.create(config, 1).title
    title += f", {data['images']['train']} images to train, {data['images']['test']} to test"
    parts = []
    if result is not None:
        parts = [html.paragraph(summary(result, split)), *reporting.result_parts(result, split, figures)]
    (workdir / "figures").mkdir(exist_ok=True)
    parts += [html.heading("Training"), *reporting.training_parts(rows, workdir / "figures")]
    for what in ("left_out", "notes"):
        if data[what]:
            parts += [html.heading(f"Of the data, {what.replace('_', ' ')}"), html.code("\n".join(data[what]))]
    parts += [html.heading("Config"), html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "report.html", html.page(title, parts))
    return workdir / "report.html"


def summary(result: dict[str, Any], split: str = "test") -> str:
    """The numbers of a detector in a sentence."""
    coco, seconds = result["coco"], result["image_seconds"]
    return (f"{result['title']} on {result['examples']} {split} images: mAP {100 * result['map']:.2f} % (IoU 0.5), "
            f"COCO AP {100 * coco['AP']:.2f} %; {sum(seconds.values()):.3f} s an image on {result['hardware']}; "
            f"trained in {result['seconds'] / 60:.1f} min{' since it was resumed' if result['resumed'] else ''}.")


def print_classes(result: dict[str, Any]) -> None:
    """Prints the table of the classes' AP and errors."""
    tables.show(reporting.CLASS_HEADER, reporting.class_table(result))
