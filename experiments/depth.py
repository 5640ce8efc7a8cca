"""The depth comparison: plain against residual networks at several depths and seeds (He et al. 2015, section 4.2).

Each cell of the grid is a run of its own in `WORKDIR/cells`, so that a study that was stopped goes on where it was. The
report is made from the files of the cells alone: `report(workdir)` makes it again without training.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification, diagnostics, models
from cnnjax import data as datasets
from cnnjax.data import augment
from cnnjax.errors import UserError
from cnnjax.reporting import curves, html, tables
from cnnjax.reporting.statistics import binomial_half_width, mean_interval
from cnnjax.training import distributed, population
from cnnjax.training import workdir as workdirs

PROBED_IMAGES = 128
"""Training images of the batch that the layers are measured on."""

HEADER = ("network", "parameters", "train err %", "test err %", "paper %", "images/s", "minutes")


class Cell(NamedTuple):
    kind: str
    depth: int
    seed: int

    @property
    def network(self) -> str:
        return f"{self.kind}{self.depth}"

    @property
    def folder(self) -> str:
        return f"{self.network}-seed{self.seed}"


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains every cell that is not finished, then writes and prints the report."""
    check(config)
    with workdirs.claim(workdir, config):
        left = [cell for cell in cells(config) if not (workdir / "cells" / cell.folder / "result.json").exists()]
        at_once = population.together() and not config.data.validation      # each seed would hold other images out
        groups = by_network(list(cells(config))) if at_once else [[cell] for cell in left]
        for group in [group for group in groups if set(group) & set(left)]:
            folders = [workdir / "cells" / cell.folder for cell in group]
            dataset = datasets.load(config.data, group[0].seed)
            probe = _probe(dataset) if config.diagnostics else None
            if len(group) == 1:
                classification.train(cell_config(config, group[0]), folders[0], dataset=dataset, probe=probe)
            else:
                classification.train_population(population_config(config, group),
                                                workdir / "populations" / group[0].network, folders, dataset=dataset,
                                                probe=probe)
        if distributed.is_writer():
            report(workdir)


def by_network(several: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each network, which differ in their seeds: a population."""
    return [[cell for cell in several if cell.network == network]
            for network in dict.fromkeys(cell.network for cell in several)]


def population_config(config: ConfigDict, group: Sequence[Cell]) -> ConfigDict:
    """The config of the population of a network's cells: that of the first, with all their seeds."""
    own = cell_config(config, group[0])
    own.population = len(group)
    with own.ignore_type():
        own.members.seed = tuple(cell.seed for cell in group)
    return own


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field for a study that has no sense."""
    for field in ("kinds", "depths", "seeds"):
        values = config.study[field]
        if not values or len(set(values)) < len(values):
            raise UserError(f"config field 'study.{field}': found {values}, expected one or more different values")
    if config.data.streamed:
        raise UserError("config field 'data.streamed': the depth study holds its images in memory; set it to False")
    for cell in cells(config):
        if cell.network not in models.names():
            raise UserError(f"config field 'study': {cell.network} is not a network; kinds are plain and resnet, "
                            "depths 20, 32, 44, 56 and 110")
        classification.check(cell_config(config, cell))
    if config.model.name != "resnet20":
        raise UserError(f"config field 'model.name': found {config.model.name!r}; a study names its networks by "
                        "study.kinds and study.depths")
    if config.population != 1:
        raise UserError(f"config field 'population': found {config.population}; a study has study.seeds instead")
    for pair in config.study.published:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and
                isinstance(pair[1], int | float)):
            raise UserError(f"config field 'study.published': found {pair!r}, expected pairs of a network's name and "
                            "its error in %")


def cells(config: ConfigDict) -> Iterator[Cell]:
    """The grid, seed by seed, so that a study that was stopped early has compared all networks."""
    for seed in config.study.seeds:
        for depth in config.study.depths:
            for kind in config.study.kinds:
                yield Cell(kind, depth, seed)


def cell_config(config: ConfigDict, cell: Cell) -> ConfigDict:
    """The config of a cell: what `cnnjax train` would be given."""
    own = copy.deepcopy(config)
    with own.unlocked():
        del own.study, own.diagnostics
        own.model.name = cell.network
    own.seed = cell.seed
    if cell.depth >= 110 and not own.schedule.warmup_steps:
        own.schedule.update(warmup_steps=400, warmup_factor=0.1, warmup="constant")     # section 4.2, n = 18
    return own


def _probe(dataset: datasets.Dataset) -> classification.Probe:
    images = augment.normalise(np.asarray(dataset.train.images[:PROBED_IMAGES]), dataset.mean, dataset.std)
    return diagnostics.layer_probe(images, dataset.train.labels[:PROBED_IMAGES], classification.loss_function)


def report(workdir: Path) -> Path:
    """Prints the table and the verdict of the finished cells of `workdir`, writes figures, table.md and report.html."""
    config = workdirs.read_config(workdir)
    found = [cell for cell in cells(config) if (workdir / "cells" / cell.folder / "result.json").exists()]
    if not found:
        raise UserError(f"{workdir} has no finished cell to report")
    results = {cell: json.loads((workdir / "cells" / cell.folder / "result.json").read_text()) for cell in found}
    rows = {cell: workdirs.read_rows(workdir / "cells" / cell.folder / workdirs.METRICS) for cell in found}

    body = table(config, results)
    sentences = verdict(results)
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    curves.error_figure({cell.folder: rows[cell] for cell in found}, figures / "errors.png",
                        panels=[[c.folder for c in found if c.kind == kind] for kind in config.study.kinds
                                if any(c.kind == kind for c in found)])
    title = f"Plain and residual networks on {config.study.title}"
    parts = [html.paragraph(s) for s in sentences]
    parts += [html.image(figures / "errors.png", "Training error (dashed) and test error (bold) over steps."),
              html.table(*body)]
    if config.diagnostics:
        parts += _layers_section({c: rows[c] for c in found if c.seed == config.study.seeds[0]}, figures)
    parts += [html.heading("Config"), html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "table.md", tables.markdown(*body))
    path = workdir / "report.html"
    workdirs.write(path, html.page(title, parts))

    tables.show(*body, title=title)
    print("\n".join(sentences))
    print(f"report: {path}")
    return path


def table(config: ConfigDict, results: dict[Cell, dict[str, Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and rows, a row a network: means over its seeds, with 95 % intervals where there are several."""
    published = dict(config.study.published)
    body = []
    for network, runs in _by_network(results).items():
        def interval(key: str, runs: list[dict[str, Any]] = runs) -> str:
            mean, half = mean_interval([100 * r[key] for r in runs])
            return f"{mean:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")
        body.append([network, f"{runs[0]['parameters']:,}", interval("train_error"), interval("test_error"),
                     f"{published[network]:.2f}" if network in published else "-",
                     f"{np.median([r['images_per_second'] for r in runs]):.0f}",
                     f"{np.mean([r['seconds'] for r in runs]) / 60:.1f}"])
    return HEADER, body


def _by_network(results: dict[Cell, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(results):
        grouped.setdefault(cell.network, []).append(results[cell])
    return grouped


def verdict(results: dict[Cell, dict[str, Any]]) -> list[str]:
    """What depth did to each kind, in words, with the numbers that it rests on. "Not shown" when the intervals overlap.

    The intervals are those over the seeds; with one seed, that of a share measured on the test images.
    """
    sentences = []
    for kind in dict.fromkeys(cell.kind for cell in results):
        depths = sorted({cell.depth for cell in results if cell.kind == kind})
        if len(depths) < 2:
            continue
        shallow, deep = depths[0], depths[-1]
        (a, a_half), (b, b_half) = (_error_interval(results, kind, depth) for depth in (shallow, deep))
        numbers = f"test error {a:.2f} ± {a_half:.2f} % at {shallow} layers, {b:.2f} ± {b_half:.2f} % at {deep}"
        if abs(b - a) <= a_half + b_half:
            sentences.append(f"{kind}: that depth matters is not shown ({numbers}; the intervals overlap).")
            continue
        word = "worse" if b > a else "better"
        sentence = (f"{kind}: {deep} layers {word} than {shallow} by {abs(b - a):.2f} ± "
                    f"{math.hypot(a_half, b_half):.2f} points ({numbers}).")
        training = [float(np.mean([r["train_error"] for c, r in results.items() if (c.kind, c.depth) == (kind, d)]))
                    for d in (shallow, deep)]
        if word == "worse" and training[1] > training[0]:
            sentence += (f" The training error rises as well, from {100 * training[0]:.2f} to {100 * training[1]:.2f} "
                         "%: the deeper net is harder to train, it does not overfit.")
        sentences.append(sentence)
    seeds = len({cell.seed for cell in results})
    sentences.append("Intervals are 95 %, " + (f"over {seeds} seeds." if seeds > 1 else
                     "of an error measured on so many test images; one seed says nothing of the spread over seeds."))
    return sentences


def _error_interval(results: dict[Cell, dict[str, Any]], kind: str, depth: int) -> tuple[float, float]:
    runs = [r for cell, r in results.items() if (cell.kind, cell.depth) == (kind, depth)]
    mean, half = mean_interval([r["test_error"] for r in runs])
    if math.isnan(half):
        half = binomial_half_width(mean, runs[0]["test_images"])
    return 100 * mean, 100 * half


def _layers_section(rows: dict[Cell, list[dict[str, Any]]], figures: Path) -> list[str]:
    """The part of the report on what reaches each layer, at the first and the last step where it was measured."""
    parts = [html.heading("Why depth hurts: what reaches each layer")]
    probed = {cell.network: [r for r in several if r["split"] == "layers"] for cell, several in rows.items()}
    for moment, index in (("first", 0), ("last", -1)):
        at = {network: measured[index] for network, measured in probed.items() if measured}
        if not at:
            return []
        step = next(iter(at.values()))["step"]
        path = figures / f"layers_{moment}.png"
        curves.layers_figure(at, path, keys={"gradient_norm": "gradient norm of the kernel",
                                             "response_std": "standard deviation of the response"})
        parts.append(html.image(path, f"Step {step}, on {PROBED_IMAGES} training images: gradient norm of each kernel, "
                                      "and standard deviation of each layer's response after batch normalisation."))
        parts += [html.paragraph(s) for s in layer_findings(at, step)]
    return parts


def layer_findings(at: dict[str, dict[str, Any]], step: int) -> list[str]:
    """Sentences on the gradients and responses of the networks at one step, made from their numbers."""
    sentences = []
    for network, row in at.items():
        norms = np.array(row["gradient_norm"])
        third = max(1, len(norms) // 3)
        ratio = np.median(norms[:third]) / max(np.median(norms[-third:]), 1e-30)
        judged = ("the gradient vanishes on its way to the input" if ratio < 0.01 else
                  "the gradient explodes on its way to the input" if ratio > 100 else
                  "the gradient neither vanishes nor explodes on its way to the input")
        sentences.append(
            f"{network}, step {step}: median gradient norm {np.median(norms[:third]):.3g} in the first third of the "
            f"layers, {np.median(norms[-third:]):.3g} in the last, ratio {ratio:.3g}: {judged}. Median response "
            f"{np.median(row['response_std']):.3g}.")
    return sentences
