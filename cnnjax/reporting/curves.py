"""Curves of a run or a study, read from the rows of metrics.jsonl."""

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


def error_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *,
                 panels: Sequence[Sequence[str]]) -> None:
    """Training error (dashed) and test error (bold) over steps, as figure 6 of He et al. 2015: a panel a group of runs.

    `runs` maps a name to its rows; the runs of several seeds are drawn alike when their names are alike up to a "-".
    """
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, names in zip(axes, panels, strict=True):
        groups = list(dict.fromkeys(name.split("-")[0] for name in names))
        for name in names:
            group = name.split("-")[0]
            colour = COLOURS[groups.index(group) % len(COLOURS)]
            first = name == next(n for n in names if n.split("-")[0] == group)
            steps, values = series(runs[name], "train", "error")
            axis.plot(steps, [100 * v for v in values], "--", color=colour, linewidth=0.8, alpha=0.7)
            steps, values = series(runs[name], "test", "error")
            axis.plot(steps, [100 * v for v in values], "-", color=colour, linewidth=2, label=group if first else None)
        axis.set_xlabel("step")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        axis.legend(title="test bold, training dashed", fontsize="small", title_fontsize="small")
    axes[0].set_ylabel("error, %")
    figure.savefig(path, dpi=150)


def layers_figure(rows: Mapping[str, Mapping[str, Any]], path: Path, *, keys: Mapping[str, str]) -> None:
    """A panel a key: its value over the index of the layer, a line a network (He et al. 2015, figure 7).

    `rows` maps a network to its row of values, one a layer; `keys` maps a key of that row to the label of its axis.
    """
    figure = Figure(figsize=(5 * len(keys), 4), layout="constrained")
    axes = figure.subplots(1, len(keys), squeeze=False)[0]
    for axis, (key, label) in zip(axes, keys.items(), strict=True):
        for i, (name, row) in enumerate(rows.items()):
            colour = COLOURS[i % len(COLOURS)]
            axis.plot(range(1, len(row[key]) + 1), row[key], ".-", color=colour, label=name, linewidth=1)
        axis.set_yscale("log")
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)
