"""Pictures of a hyperparameter search, of trials as dicts with `number`, `state`, `value`, `last` and `params`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

matplotlib.use("agg")


def history(trials: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The error of each trial over its number, hollow where it was pruned, and the best so far as a line."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    complete = [(t["number"], 100 * t["value"]) for t in trials if t["state"] == "complete"]
    pruned = [(t["number"], 100 * t["last"]) for t in trials if t["state"] == "pruned" and t["last"] is not None]
    if pruned:
        axis.scatter(*zip(*pruned, strict=True), facecolors="none", edgecolors="tab:gray", label="pruned, its last")
    numbers, errors = zip(*complete, strict=True)
    axis.scatter(numbers, errors, color="tab:blue", label="complete")
    axis.step(numbers, np.minimum.accumulate(errors), where="post", color="tab:red", label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel("validation error, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def parallel_coordinates(trials: Sequence[Mapping[str, Any]], path: Path) -> None:
    """An axis a hyperparameter and one for the error, a line a trial; the best lines are drawn last, on top.

    Numbers whose range spans more than a factor of 30 are placed by their logarithm; names in order.
    """
    fields = list(dict.fromkeys(field for t in trials for field in t["params"]))
    errors = [100 * t["value"] for t in trials]
    columns = [(field.split(".")[-1], [t["params"][field] for t in trials]) for field in fields]
    columns.append(("validation error, %", errors))
    places, labels = zip(*(_place(values) for _, values in columns), strict=True)
    figure = Figure(figsize=(1.8 * len(columns) + 1, 4), layout="constrained")
    axis = figure.subplots()
    norm = Normalize(min(errors), max(errors))
    colours = matplotlib.colormaps["viridis"]
    for i in np.argsort(errors)[::-1]:
        axis.plot(range(len(columns)), [place[i] for place in places], color=colours(norm(errors[i])), alpha=0.8)
    for x, ticks in enumerate(labels):
        axis.axvline(x, color="black", linewidth=0.8)
        for height, text in ticks:
            axis.text(x + 0.03, height, text, fontsize="small", va="center")
    axis.set_xticks(range(len(columns)), [name for name, _ in columns])
    axis.set_yticks([])
    for side in ("top", "left", "right", "bottom"):
        axis.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=axis, label="validation error, %")
    figure.savefig(path, dpi=150)


def _place(values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights between 0 and 1, and the ticks of their axis as heights and texts."""
    if any(isinstance(v, str | bool | tuple) for v in values):
        names = sorted({str(v) for v in values})
        heights = {name: i / max(len(names) - 1, 1) for i, name in enumerate(names)}
        return np.array([heights[str(v)] for v in values]), [(h, name) for name, h in heights.items()]
    numbers = np.array(values, float)
    low, high = numbers.min(), numbers.max()
    if low > 0 and high / low > 30:
        scaled = np.log(numbers / low) / np.log(high / low)
    else:
        scaled = (numbers - low) / (high - low if high > low else 1)
    return scaled, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.0, f"{low:.3g}")]


def importance(shares: Mapping[str, float], path: Path) -> None:
    """A bar a hyperparameter, the most important on top."""
    figure = Figure(figsize=(6, 0.5 * len(shares) + 1), layout="constrained")
    axis = figure.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axis.barh(names, [shares[name] for name in names], color="tab:blue")
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set_xlabel("share of the importance")
    axis.margins(x=0.1)
    figure.savefig(path, dpi=150)
