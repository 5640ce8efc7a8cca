"""Tables and pictures of a hyperparameter search."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cnnjax.reporting.tables import percent

matplotlib.use("agg")

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


class Trials(NamedTuple):
    """The trials of a search that chose by `score`, such as "validation_error", whose better `end` is "min" or "max".

    Each is a dict with `number`, `state` (complete, pruned, fail), `value` of the complete, `last` score reported,
    `params`, and where they are known `steps`, the score on the test split and the `reason` for its end. `importance`
    is the share of each hyperparameter.
    """

    score: str
    end: str
    trials: Sequence[Mapping[str, Any]]
    importance: Mapping[str, float]

    @property
    def test(self) -> str:
        """The name of the score on the test split."""
        return "test_" + self.score.removeprefix("validation_")


def words(name: str) -> str:
    return name.replace("_", " ")


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ranked(found: Trials) -> list[Mapping[str, Any]]:
    """The complete trials, the best first."""
    complete = [t for t in found.trials if t["state"] == "complete"]
    return sorted(complete, key=lambda t: t["value"], reverse=found.end == "max")


def table(found: Trials) -> Table:
    """A row a trial, the complete ones first and the best of them on top."""
    fields = _fields(found.trials)
    sign = 1 if found.end == "min" else -1
    order = ranked(found) + sorted((t for t in found.trials if t["state"] != "complete"),
                                   key=lambda t: math.inf if t["last"] is None else sign * t["last"])

    def outcome(t: Mapping[str, Any]) -> str:
        return "diverged" if t.get("reason", "").startswith("diverged") else t["state"]
    body = [[str(t["number"]), outcome(t), percent(t["last"], 2), percent(t.get(found.test), 2), str(t.get("steps", 0)),
             *(short(t["params"].get(field, "-")) for field in fields)] for t in order]
    scores = [f"{words(name)} %" for name in (found.score, found.test)]
    return ["trial", "outcome", *scores, "steps", *(field.split(".")[-1] for field in fields)], body


def equal_cost(sweeps: Sequence[tuple[str, Any, Trials]]) -> Table:
    """A row a sweep of those given by name, `config.sweep` and trials, cut where the cheapest of them ended: its best
    among the trials, by number, that the same training steps paid for."""
    budget = min(sum(t.get("steps", 0) for t in found.trials) for _, _, found in sweeps)
    body = []
    for name, options, found in sweeps:
        steps = np.cumsum([t.get("steps", 0) for t in found.trials])
        paid = found._replace(trials=[t for t, s in zip(found.trials, steps, strict=True) if s <= budget])
        complete = ranked(paid)
        best = complete[0] if complete else {}
        body.append([name, options.sampler, options.pruner, str(len(paid.trials)), str(len(complete)),
                     f"{sum(t.get('steps', 0) for t in paid.trials):,}",
                     percent(best.get("value"), 2), percent(best.get(found.test), 2)])
    score = sweeps[0][2].score
    return ["sweep", "sampler", "pruner", "trials", "complete", "steps", f"best {words(score)} %", "its test %"], body


def pictures(found: Trials, folder: Path) -> list[tuple[Path, str]]:
    """Draws a search with complete trials into the folder, and returns the files with their captions."""
    folder.mkdir(exist_ok=True)
    score = words(found.score)
    drawn = [(folder / "history.png", f"The {score} of each trial, and the best so far."),
             (folder / "parallel.png", f"A line a complete trial, coloured by its {score}; a gap where it has not the "
                                       "hyperparameter.")]
    history(found, drawn[0][0])
    parallel_coordinates(found, drawn[1][0])
    if found.importance:
        drawn.append((folder / "importance.png",
                      "Importance of each hyperparameter among the complete trials (PED-ANOVA)."))
        importance(found.importance, drawn[2][0])
    return drawn


def _fields(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(field for t in trials for field in t["params"]))


def history(found: Trials, path: Path) -> None:
    """The score of each trial over its number, hollow where it was pruned, and the best so far as a line."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    complete = [(t["number"], 100 * t["value"]) for t in found.trials if t["state"] == "complete"]
    pruned = [(t["number"], 100 * t["last"]) for t in found.trials if t["state"] == "pruned" and t["last"] is not None]
    if pruned:
        axis.scatter(*zip(*pruned, strict=True), facecolors="none", edgecolors="tab:gray", label="pruned, its last")
    numbers, scores = zip(*complete, strict=True)
    best = np.minimum if found.end == "min" else np.maximum
    axis.scatter(numbers, scores, color="tab:blue", label="complete")
    axis.step(numbers, best.accumulate(scores), where="post", color="tab:red", label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel(f"{words(found.score)}, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def parallel_coordinates(found: Trials, path: Path) -> None:
    """An axis a hyperparameter and one for the score, a line a complete trial; the best lines are drawn last, on top.

    Numbers whose range spans more than a factor of 30 are placed by their logarithm; names in order. A line has a gap
    where its trial has not the hyperparameter.
    """
    trials = ranked(found)
    scores, label = [100 * t["value"] for t in trials], f"{words(found.score)}, %"
    columns = [(field.split(".")[-1], [t["params"].get(field) for t in trials]) for field in _fields(trials)]
    columns.append((label, scores))
    places, labels = zip(*(_place(values) for _, values in columns), strict=True)
    figure = Figure(figsize=(1.8 * len(columns) + 1, 4), layout="constrained")
    axis = figure.subplots()
    norm = Normalize(min(scores), max(scores))
    colours = matplotlib.colormaps["viridis"]
    for i in reversed(range(len(trials))):
        axis.plot(range(len(columns)), [place[i] for place in places], "o-", markersize=3, alpha=0.8,
                  color=colours(norm(scores[i])))
    for x, ticks in enumerate(labels):
        axis.axvline(x, color="black", linewidth=0.8)
        for height, text in ticks:
            axis.text(x + 0.03, height, text, fontsize="small", va="center")
    axis.set_xticks(range(len(columns)), [name for name, _ in columns])
    axis.set_yticks([])
    for side in ("top", "left", "right", "bottom"):
        axis.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=axis, label=label)
    figure.savefig(path, dpi=150)


def _place(values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights between 0 and 1, NaN for None, and the ticks of their axis as heights and texts."""
    if any(isinstance(v, str | bool | tuple | list) for v in values):
        names = sorted({str(v) for v in values if v is not None})
        heights = {name: i / max(len(names) - 1, 1) for i, name in enumerate(names)}
        return np.array([heights.get(str(v), math.nan) for v in values]), [(h, name) for name, h in heights.items()]
    numbers = np.array(values, float)           # None is NaN
    low, high = np.nanmin(numbers), np.nanmax(numbers)
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
