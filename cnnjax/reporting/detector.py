"""The report of a detector: its curves, precision against recall, errors by class, best and worst images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cnnjax.data.detection_sets import DetectionSet
from cnnjax.evaluation.detection_errors import Outcomes
from cnnjax.evaluation.voc_ap import Curve, Detections
from cnnjax.reporting import boxes, classifier, curves, html, tables

SHOWN = 4           # best and worst images
CURVES = 10
"""Classes whose precision and recall are drawn; of more the worst."""

CLASS_HEADER = ("class", "objects", "AP50 %", "right", "as another", "missed", "false", "precision %", "recall %",
                "most often called")


def precision_recall_figure(found: Sequence[Curve], names: Sequence[str], path: Path) -> None:
    """Precision over recall of each class; of more than CURVES those of the least AP."""
    known = [c for c in range(len(found)) if not np.isnan(found[c].ap)]
    shown = sorted(sorted(known, key=lambda c: found[c].ap)[:CURVES])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for n, c in enumerate(shown):
        recall, precision = found[c].recall, found[c].precision
        # down to 0 at the recall that is never exceeded
        axis.plot(np.append(recall, recall[-1:]), np.append(precision, np.zeros(len(recall[-1:]))), color=f"C{n}",
                  label=f"{names[c]} ({100 * found[c].ap:.0f})")
    axis.set_xlim(0, 1.01)
    axis.set_ylim(0, 1.01)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.grid(alpha=0.3)
    if shown:
        axis.legend(title="class (AP, %)", fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=120)


def confusion_figure(confusion: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The confusions of classes and of the background; of many classes those with the most errors."""
    background = len(names)
    errors = (confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal())[:background]
    shown = np.sort(np.argsort(-errors, kind="stable")[:classifier.CLASSES_SHOWN])
    rows = [*shown, background]
    classifier.confusion_figure(confusion[np.ix_(rows, rows)], [*(names[c] for c in shown), "background"], path,
                                [*(names[c] for c in shown), "missed"])


def truth_and_found(images: DetectionSet, detections: Sequence[Detections], numbers: Sequence[int],
                    names: Sequence[str], score_threshold: float) -> np.ndarray:
    """Images with the ground truth (above) and the detections of at least a score (below)."""
    above, below = [], []
    for i in numbers:
        image, truth = images.read(i), images.objects[i]
        above.append(boxes.draw(image, truth.boxes, [names[c] for c in truth.classes],
                                [boxes.COLOURS[c % len(boxes.COLOURS)] for c in truth.classes]))
        below.append(boxes.draw_detections(image, *detections[i], names, score_threshold))
    return boxes.grid([above, below])


def examples_figures(images: DetectionSet, detections: Sequence[Detections], errors: Outcomes, names: Sequence[str],
                     score_threshold: float, figures: Path) -> None:
    """`best.png` and `worst.png`: the images with the fewest errors, of those the ones with the most objects found, and
    with the most."""
    wrong = errors.false + errors.missed
    order = np.lexsort((-errors.right, wrong))
    for name, numbers in (("best", order[:SHOWN]), ("worst", order[::-1][:SHOWN])):
        boxes.save(truth_and_found(images, detections, [int(i) for i in numbers], names, score_threshold),
                   figures / f"{name}.png")


def class_rows(errors: Outcomes, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each class and of the background, what became of its objects: counts."""
    background, confusion = len(names), errors.confusion
    rows = {}
    for c, name in enumerate(names):
        others = confusion[c].copy()
        others[[c, background]] = 0
        rows[name] = {"objects": int(confusion[c].sum()), "right": int(confusion[c, c]),
                      "as_another": int(others.sum()), "missed": int(confusion[c, background]),
                      "called": int(confusion[:, c].sum()),
                      "most_called": names[others.argmax()] if others.any() else ""}
    return rows


def class_table(result: Mapping[str, Any]) -> list[list[str]]:
    """A row of CLASS_HEADER for each class."""
    rows = []
    for name, row in result["errors"].items():
        false = row["called"] - row["right"]
        rows.append([name, str(row["objects"]), tables.percent(result["ap"][name]), str(row["right"]),
                     str(row["as_another"]), str(row["missed"]), str(false),
                     *(f"{100 * row['right'] / of:.1f}" if of else "" for of in (row["called"], row["objects"])),
                     row["most_called"]])
    return rows


def result_parts(result: Mapping[str, Any], split: str, figures: Path) -> list[str]:
    """The scores of a detector on a split and the `figures` that were drawn of it."""
    coco, at = result["coco"], result["score_threshold"]
    sizes = [[size, str(result["objects_by_size"][size]), tables.percent(coco[f"AP {size}"])]
             for size in ("small", "medium", "large")]
    parts = [
        html.heading("AP by size and by overlap"),
        html.table(("objects", "of the split", "COCO AP %"), sizes),
        html.table(("", "%"), [["AP, IoU 0.5 to 0.95", tables.percent(coco["AP"])], *(
            [name, tables.percent(coco[name])] for name in ("AP50", "AP75", "AR 1", "AR 10", "AR 100"))]),
        html.heading("Precision and recall"),
        html.image(figures / "precision_recall.png", "Of each class, over all scores; an object is found at an IoU "
                   "over 0.5. Of many classes those of the least AP."),
        html.heading("Errors of each class"),
        html.paragraph(f"Detections of a score of {at:g} or more, on {result['examples']} {split} images. False are "
                       "detections of no object, or of an object of another class or one that is found already."),
        html.table(CLASS_HEADER, class_table(result)),
        html.heading("Confusions"),
        html.image(figures / "confusion.png", "Objects of the class of the row that were detected as the class of the "
                   "column, or missed; in the last row detections where no object is."),
        *(part for which in ("best", "worst") for part in (
            html.heading(f"{which.capitalize()} images"),
            html.image(figures / f"{which}.png", "Above the ground truth, below the detections.")))]
    if result["proposals_by"]:
        counts = list(result["recall"])
        parts += [html.heading("Recall of proposals at IoU 0.5, %"), html.table(
            ("proposals", "an image", *counts), [[result["proposals_by"], f"{result['proposals']:.0f}", *(
                f"{100 * result['recall'][n]:.1f}" for n in counts)]])]
    return parts


def training_parts(rows: Mapping[str, Sequence[Mapping[str, Any]]], figures: Path) -> list[str]:
    """The curves of each training by its name, "" for a lone one; rows may still be written."""
    parts = []
    for name, own in rows.items():
        if not own:
            continue
        path = figures / f"curves{'_' * bool(name)}{name}.png"
        curves.training_figure(own, path, (("loss", "loss", 1.0), ("map", "mAP, %", 100.0),
                                           ("learning_rate", "learning rate", 1.0)))
        what = f"The training {name!r}: " if name else ""
        parts.append(html.image(path, f"{what}loss in training, of augmented images, and on validation images, where "
                                "there are any; mAP on these; learning rate."))
    return parts
