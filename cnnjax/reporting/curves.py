"""Curves of a run or a study, read from the rows of metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("agg")

COLOURS = ("tab:red", "tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown")


def series(rows: Sequence[Mapping[str, Any]], split: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of `key` in the rows of `split`."""
    chosen = [row for row in rows if row["split"] == split and key in row]
    return [row["step"] for row in chosen], [row[key] for row in chosen]


def training_figure(rows: Sequence[Mapping[str, Any]], path: Path, panels: Sequence[tuple[str, str, float]]) -> None:
    """Numbers of one run over its steps, those of training dashed, a panel for each (key, label, factor) that some row
    has."""
    shown = [panel for panel in panels if any(panel[0] in row for row in rows)] or panels[:1]
    figure = Figure(figsize=(4 * len(shown), 3.6), layout="constrained")
    for axis, (key, label, factor) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for split, style, colour in (("train", "--", "tab:gray"), ("validation", "-", "tab:blue"),
                                     ("test", "-", "tab:red")):
            steps, values = series(rows, split, key)
            if steps:
                # one point alone is no line
                axis.plot(steps, [factor * v for v in values], style, label=split, color=colour,
                          marker="" if len(steps) > 1 else "o")
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if axis.lines and key != "learning_rate":
            axis.legend()
    figure.savefig(path, dpi=120)


def error_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *,
                 panels: Mapping[str, Sequence[str]]) -> None:
    """Training error (dashed) and test error (bold) over steps, as figure 6 of He et al. 2015.

    `panels` maps a title to the names of the runs of that panel.
    `runs` maps a name to its rows; the runs of several seeds are drawn alike when their names are alike up to a "-".
    """
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        groups = list(dict.fromkeys(name.split("-")[0] for name in names))
        for name in names:
            group = name.split("-")[0]
            colour = COLOURS[groups.index(group) % len(COLOURS)]
            first = name == next(n for n in names if n.split("-")[0] == group)
            steps, values = series(runs[name], "train", "error")
            axis.plot(steps, [100 * v for v in values], "--", color=colour, linewidth=0.8, alpha=0.7)
            steps, values = series(runs[name], "test", "error")
            axis.plot(steps, [100 * v for v in values], "-", color=colour, linewidth=2, label=group if first else None)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        axis.legend(title="test bold, training dashed", fontsize="small", title_fontsize="small")
    axes[0].set_ylabel("error, %")
    figure.savefig(path, dpi=150)


def depth_figure(points: Mapping[str, Sequence[tuple[int, float, float]]], path: Path, *,
                 paper: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Error against depth, all in %: `points` maps a curve to `(depth, error, half of its interval)`.

    Curves are called "KIND test" and "KIND training"; a half is NaN where there is no interval. `paper` maps a kind to
    what its paper reports, drawn hollow.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    kinds = list(dict.fromkeys(name.split()[0] for name in (*points, *paper)))
    for name, several in points.items():
        kind, what = name.split()
        style: dict[str, Any] = {"fmt": "o-", "linewidth": 2} if what == "test" else {"fmt": "s--", "linewidth": 1}
        depths, errors, halves = zip(*sorted(several), strict=True)
        if what == "test":                      # the errors at both ends in numbers, beside the curve
            for i, side in ((0, "right"), (-1, "left")):
                axis.annotate(f"{errors[i]:.1f}", (depths[i], errors[i]), (8 * (-1) ** (i == 0), 0), va="center",
                              textcoords="offset points", ha=side, color=COLOURS[kinds.index(kind) % len(COLOURS)])
        axis.errorbar(depths, errors, [0 if math.isnan(half) else half for half in halves], capsize=4, label=name,
                      color=COLOURS[kinds.index(kind) % len(COLOURS)], **style)
    for kind, published in paper.items():
        axis.plot(*zip(*published, strict=True), "D:", color=COLOURS[kinds.index(kind) % len(COLOURS)], linewidth=1,
                  markerfacecolor="white", label=f"{kind} test, He et al. 2015 (64,000 steps)")
    axis.set_xticks(sorted({point[0] for several in (*points.values(), *paper.values()) for point in several}))
    axis.set_xlabel("depth, layers")
    axis.set_ylabel("error, %")
    axis.set_ylim(bottom=0)
    axis.margins(x=0.12)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left")
    figure.savefig(path, dpi=150)
