"""The report of a classifier: its curves, its errors by class, confusions, calibration and most confident mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from cnnjax.evaluation import classification as scores
from cnnjax.reporting import curves, html

MISTAKES = 24
CLASSES_SHOWN = 40
"""In the tables and the confusion matrix: of more classes those with the greatest errors."""

_TILE, _COLUMNS = 144, 6        # pixels of a side, tiles of a row


def curves_part(rows: Sequence[Mapping[str, Any]], figures: Path) -> list[str]:
    """Loss, error and learning rate over the steps of a run that may be under way."""
    path = figures / "curves.png"
    curves.training_figure(rows, path, (("loss", "loss", 1.0), ("error", "error, %", 100.0),
                                        ("learning_rate", "learning rate", 1.0)))
    return [html.image(path, "Loss and error in training, of augmented images, and on whole splits; learning rate.")]


def answers_part(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], split: str,
                 pictures: Mapping[int, np.ndarray], figures: Path) -> list[str]:
    """How a network classified a split: `probabilities` (N, K), `labels` (N,), `pictures` of examples by number."""
    reliable = scores.calibration(probabilities, labels)
    counts = scores.confusion_matrix(probabilities, labels)
    low, high = scores.wilson_interval(int(np.sum(probabilities.argmax(1) != labels)), len(labels))
    said = (f"On {len(labels)} {split} images the top-1 error is {100 * scores.top_error(probabilities, labels):.2f} % "
            f"(95 % interval {100 * low:.2f} to {100 * high:.2f})")
    if len(classes) > 5:
        said += f", the top-5 error {100 * scores.top_error(probabilities, labels, 5):.2f} %"
    said += (f"; the expected calibration error is {100 * reliable.error:.1f} points: mean confidence "
             f"{100 * probabilities.max(1).mean():.1f} %, accuracy "
             f"{100 * np.mean(probabilities.argmax(1) == labels):.1f} %.")
    wrong = counts.sum(1) - counts.diagonal()
    shown = np.argsort(-wrong / np.maximum(counts.sum(1), 1), kind="stable")[:CLASSES_SHOWN]
    reliability_figure(reliable, figures / "reliability.png")
    confusion_figure(counts[np.ix_(np.sort(shown), np.sort(shown))], [classes[i] for i in np.sort(shown)],
                     figures / "confusion.png")
    rows = []
    for i in shown:
        bounds = scores.wilson_interval(int(wrong[i]), int(counts[i].sum()))
        confused = np.argsort(-np.where(np.arange(len(classes)) == i, -1, counts[i]), kind="stable")[0]
        rows.append([classes[i], str(counts[i].sum()), f"{100 * wrong[i] / max(counts[i].sum(), 1):.1f}",
                     f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}",
                     f"{classes[confused]} ({counts[i][confused]})" if counts[i][confused] else ""])
    title = "Error of each class" if len(classes) <= CLASSES_SHOWN else f"The {CLASSES_SHOWN} classes of most error"
    parts = [html.paragraph(said), html.heading(title),
             html.table(("class", "images", "error %", "95 % interval", "most often called"), rows),
             html.heading("Confusions"), html.image(figures / "confusion.png", "Images of the class of the row that "
                                                    "were called the class of the column."),
             html.heading("Calibration"), html.image(figures / "reliability.png", "The share that is right against the "
                                                     "confidence, in bins of equal width (Guo et al. 2017); on the "
                                                     "diagonal the network is as right as it is sure.")]
    mistakes = [i for i in scores.confident_mistakes(probabilities, labels, MISTAKES) if i in pictures]
    if mistakes:
        tiles = [(pictures[i], classes[labels[i]], f"{classes[probabilities[i].argmax()]} "
                  f"{100 * probabilities[i].max():.0f} %") for i in mistakes]
        mistakes_picture(tiles).save(figures / "mistakes.png")
        parts += [html.heading("The most confident mistakes"), html.image(
            figures / "mistakes.png", "Above the image its class, below what it was called and how surely.")]
    return parts


def reliability_figure(reliable: scores.Calibration, path: Path) -> None:
    """Accuracy against confidence, and how many examples have it."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    width = 1 / len(reliable.counts)
    middles = (np.arange(len(reliable.counts)) + 0.5) * width
    above.bar(middles, np.nan_to_num(reliable.accuracy), width * 0.9, color="tab:blue", label="share that is right")
    above.plot([0, 1], [0, 1], "k--", linewidth=1)
    above.plot(reliable.confidence, reliable.accuracy, "o", color="tab:red", markersize=4, label="mean confidence")
    above.set_ylabel("accuracy")
    above.legend(loc="upper left")
    below.bar(middles, reliable.counts, width * 0.9, color="0.6")
    below.set_xlabel("confidence")
    below.set_ylabel("images")
    figure.savefig(path, dpi=120)


def confusion_figure(counts: np.ndarray, names: Sequence[str], path: Path, called: Sequence[str] = ()) -> None:
    """The confusion matrix, its rows in shares; with few classes the counts in numbers. `called` are the names of the
    columns where they are others."""
    side = min(12.0, 2.5 + 0.45 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), called or names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("called")
    axis.set_ylabel("class")
    if len(names) <= 20:
        for i, j in zip(*np.nonzero(counts), strict=True):
            axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize="small",
                      color="white" if shares[i, j] > 0.5 else "black")
    figure.colorbar(drawn, label="share of the class", shrink=0.8)
    figure.savefig(path, dpi=120)


def mistakes_picture(tiles: Sequence[tuple[np.ndarray, str, str]]) -> Image.Image:
    """Images (H, W, C) uint8, each between two lines of text, in a grid."""
    line, cell = 16, _TILE + 40
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (min(len(tiles), _COLUMNS) * (_TILE + 8), rows * cell), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (pixels, above, below) in enumerate(tiles):
        x, y = n % _COLUMNS * (_TILE + 8) + 4, n // _COLUMNS * cell
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
        factor = _TILE / max(picture.size)
        size = [max(1, round(side * factor)) for side in picture.size]
        sheet.paste(picture.resize((size[0], size[1]), Image.Resampling.NEAREST if factor > 1 else
                                   Image.Resampling.LANCZOS), (x, y + line))
        pen.text((x, y + 2), above[:24], fill="black")
        pen.text((x, y + line + size[1] + 2), below[:24], fill="#b00020")
    return sheet
