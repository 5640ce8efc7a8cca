"""Figures on why deep plain networks train worse: loss surfaces, layer statistics, removed blocks, gradients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from cnnjax.reporting.curves import COLOURS

matplotlib.use("agg")


def layers_figure(rows: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, keys: Mapping[str, str]) -> None:
    """Heat maps over training step and layer: a row a key, a column a network (He et al. 2015, figure 7).

    `rows` maps a network to its rows of values, one a layer; `keys` maps a key of a row to what its colour means.
    """
    figure = Figure(figsize=(4.2 * len(rows) + 1, 3.2 * len(keys)), layout="constrained")
    axes = figure.subplots(len(keys), len(rows), squeeze=False)
    for line, (key, label) in zip(axes, keys.items(), strict=True):
        maps = {name: np.array([row[key] for row in several]).T for name, several in rows.items()}
        everything = np.concatenate([values.ravel() for values in maps.values()])
        positive = everything[everything > 0]
        low, high = np.percentile(positive, [1, 99]) if positive.size else (0.1, 1.0)
        norm = LogNorm(low, max(high, low * 1.01))
        for axis, (name, values) in zip(line, maps.items(), strict=True):
            steps = [row["step"] for row in rows[name]]
            picture = axis.imshow(np.maximum(values, low), aspect="auto", norm=norm, cmap="viridis", origin="upper")
            axis.set_xticks(range(len(steps)), [str(step) for step in steps], rotation=45)
            axis.set_yticks([0, len(values) - 1], ["1: image", f"{len(values)}"])
            first, last = thirds(values[:, -1])
            axis.set_title(f"{name}: {label}\nat the end {first:.2g} in the first third of the layers, {last:.2g} in "
                           "the last", fontsize="small")
            axis.set_xlabel("step")
        line[0].set_ylabel("layer")
        figure.colorbar(picture, ax=list(line), label=label)
    figure.savefig(path, dpi=150)


def thirds(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The medians over the first and the last third of the layers."""
    third = max(1, len(values) // 3)
    return float(np.median(values[:third])), float(np.median(values[-third:]))


def surface_figure(surfaces: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The loss around each network, 3-D above contours, one colour scale for all (Li et al. 2018, figures 1 and 5).

    `surfaces` maps a network to its `steps` `(n,)` and `loss` `(n, n)`, None where it is not finite. The height is the
    logarithm of the loss, so that a narrow valley and a high plateau are both seen.
    """
    heights = {name: np.log10(np.maximum(np.array(s["loss"], float), 1e-3)) for name, s in surfaces.items()}
    finite = np.concatenate([z[np.isfinite(z)] for z in heights.values()])
    low, high = finite.min(), finite.max()
    high = max(high, low + 0.1)
    levels = np.linspace(low, high, 16)
    figure = Figure(figsize=(4.8 * len(surfaces) + 0.8, 8), layout="constrained")
    flat = []
    for i, (name, z) in enumerate(heights.items(), 1):
        steps, middle = np.array(surfaces[name]["steps"]), 10 ** z[len(z) // 2, len(z) // 2]
        most = f"up to {10 ** z.max():.2f}" if np.isfinite(z).all() else "not finite everywhere"
        z = np.where(np.isfinite(z), z, high)
        a, b = np.meshgrid(steps, steps)
        axis = figure.add_subplot(2, len(surfaces), i, projection="3d")
        axis.plot_surface(a, b, z, cmap="viridis", vmin=low, vmax=high, rstride=1, cstride=1, linewidth=0)
        axis.set_zlim(low, high)
        axis.set_zticks(*_log_ticks(low, high))
        axis.set_title(f"{name}: loss {middle:.2f} where training ended,\n{most} around it")
        axis = figure.add_subplot(2, len(surfaces), len(surfaces) + i)
        drawn = axis.contourf(a, b, z, levels=levels, cmap="viridis", extend="both")
        axis.contour(a, b, z, levels=levels, colors="white", linewidths=0.4)
        axis.plot(0, 0, "r+", markersize=10)
        axis.set_xlabel("first random direction")
        axis.set_ylabel("second random direction" if i == 1 else "")
        axis.set_aspect("equal")
        axis.set_xticks([steps[0], 0, steps[-1]])
        axis.set_yticks([steps[0], 0, steps[-1]])
        flat.append(axis)
    bar = figure.colorbar(drawn, ax=flat, label="loss (log scale)", shrink=0.8)
    places, labels = _log_ticks(low, high)
    bar.set_ticks(places, labels=labels)
    figure.savefig(path, dpi=150)


def _log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Places and labels on an axis of decimal logarithms: 1, 2 and 5 of each decade that is in sight."""
    values = [m * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in (1, 2, 5)]
    values = [v for v in values if low <= np.log10(v) <= high]
    values = values if len(values) <= 10 else [v for v in values if f"{v:e}"[0] == "1"]
    return [float(np.log10(v)) for v in values], [f"{v:g}" for v in values]


def surface_levels(surface: Mapping[str, Any]) -> tuple[float, float, float]:
    """The loss of a surface in the middle, where training ended, and over its square the median and the greatest; what
    is not finite counts as infinite."""
    loss = np.array(surface["loss"], float)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    return float(loss[len(loss) // 2, len(loss) // 2]), float(np.median(loss)), float(loss.max())


def removal_figure(removals: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Error with each block removed, a line a network, beside the error of the whole network (Veit et al. 2016)."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    for i, (name, removal) in enumerate(removals.items()):
        colour, error = COLOURS[i % len(COLOURS)], 100 * np.array(removal["error"])
        axis.plot(range(1, len(error) + 1), error, "o-", color=colour, linewidth=1, markersize=4,
                  label=f"{name}, one block removed: median {np.median(error):.0f} %")
        axis.axhline(100 * removal["whole"], color=colour, linestyle="--", linewidth=1,
                     label=f"{name}, whole: {100 * removal['whole']:.0f} %")
    longest = max(removals.values(), key=lambda r: len(r["block"]))["block"]
    for i in [i for i in range(1, len(longest)) if longest[i].split("_")[0] != longest[i - 1].split("_")[0]]:
        axis.axvline(i + 1, color="grey", linewidth=0.6, linestyle=":")
        axis.text(i + 1.1, 1, "half the size", fontsize="x-small", color="grey")
    axis.set_xlabel("block removed, from image to output")
    axis.set_ylabel("test error, %")
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def correlation_figure(correlations: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Gradient correlation of nearby inputs over the blocks, a panel untrained and one trained (Balduzzi et al. 2017).

    `correlations` maps a network to its lists `untrained` and `trained`, from the image to the last block.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, moment in zip(figure.subplots(1, 2, sharey=True), ("untrained", "trained"), strict=True):
        for i, (name, of) in enumerate(correlations.items()):
            values = of[moment]
            axis.plot(range(len(values)), values, ".-", color=COLOURS[i % len(COLOURS)],
                      label=f"{name}: {values[0]:z.2f} at the image")
        axis.set_title(moment)
        axis.set_xlabel("block's output (0: the image)")
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axis.set_ylim(-0.1, 1.05)
    axis.text(0.98, 0.03, "0: gradients are unrelated", transform=axis.transAxes, ha="right", fontsize="x-small")
    figure.axes[0].set_ylabel("gradient correlation, nearby inputs")
    figure.savefig(path, dpi=150)
