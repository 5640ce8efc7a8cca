"""The depth comparison: plain against residual networks at several depths and seeds (He et al. 2015, section 4.2).

Each cell of the grid is a run of its own in `WORKDIR/cells`, so that a study that was stopped goes on where it was. The
report is made from the files of the cells alone: `report(workdir)` makes it again without training.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification, diagnostics, models, networks
from cnnjax import config as configs
from cnnjax import data as datasets
from cnnjax.classifier import Probe, loss
from cnnjax.data import augment
from cnnjax.errors import UserError
from cnnjax.fields import Field, Fields
from cnnjax.reporting import curves, html, tables
from cnnjax.reporting.statistics import binomial_half_width, difference_interval, mean_interval
from cnnjax.training import distributed, population
from cnnjax.training import workdir as workdirs

from . import why_depth

FIELDS: Fields = {
    **classification.FIELDS,
    "study": {
        "kinds": Field(("plain", "resnet"), "plain and resnet, or one of them"),
        "depths": Field((20, 56), "layers: of 20, 32, 44, 56, 110"),
        "seeds": Field((0,), "of each network a run for each seed"),
        "title": Field("digits", "what the images are called in tables and reports"),
        "published": Field((), "pairs of a network and its paper's error in %, for a column of their own")},
    "diagnostics": Field(False, "measure why depth hurts: gradients, responses, the loss surface, blocks removed"),
}
"""The fields of a depth study's config: the comparison of plain and residual networks."""

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
        said: set[str] = set()              # what there is to say of the images, for all seeds once
        for group in [group for group in groups if set(group) & set(left)]:
            folders = [workdir / "cells" / cell.folder for cell in group]
            dataset = classification.load_data(cell_config(config, group[0]), said)
            assert isinstance(dataset, datasets.Dataset)        # `check` refuses streamed ones
            probe = _probe(config, dataset) if config.diagnostics else None
            if len(group) == 1:
                classification.train(cell_config(config, group[0]), folders[0], dataset=dataset, probe=probe)
            else:
                classification.train_population(population_config(config, group),
                                                workdir / "populations" / group[0].network, folders, dataset=dataset,
                                                probe=probe)
        if config.diagnostics:
            measure(config, workdir)
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
    """Raises UserError naming the field for a study that cannot be run."""
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


def _probe(config: ConfigDict, dataset: datasets.Dataset) -> Probe:
    images = augment.normalise(np.asarray(dataset.train.images[:PROBED_IMAGES]), dataset.mean, dataset.std)
    return diagnostics.layer_probe(images, dataset.train.labels[:PROBED_IMAGES], partial(
        loss, hyper={"label_smoothing": config.optimizer.label_smoothing}))


def report(workdir: Path) -> Path:
    """Prints the table and the verdict of the finished cells of `workdir`, writes figures, table.md and report.html.

    A cell is finished where `workdir/cells/CELL/result.json` is, whoever trained it: cells of several workdirs are put
    together by copying their folders. Where a cell's recipe is not the study's, the report says so.
    """
    config = workdirs.read_config(workdir)
    found = [cell for cell in cells(config) if (workdir / "cells" / cell.folder / "result.json").exists()]
    if not found:
        raise UserError(f"{workdir} has no finished cell to report")
    results = {cell: json.loads((workdir / "cells" / cell.folder / "result.json").read_text()) for cell in found}
    rows = {cell: workdirs.read_rows(workdir / "cells" / cell.folder / workdirs.METRICS) for cell in found}

    body = table(config, results)
    sentences = verdict(results, config.batch_size) + foreign(config, workdir, found)
    missing = [cell.folder for cell in cells(config) if cell not in results]
    if missing:
        sentences.append(f"Not finished, and not in any figure here: {', '.join(missing)}.")
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    kinds = [kind for kind in config.study.kinds if any(c.kind == kind for c in found)]
    curves.error_figure({cell.folder: rows[cell] for cell in found}, figures / "errors.png",
                        panels={_panel(results, kind): [c.folder for c in found if c.kind == kind] for kind in kinds})
    title = f"Plain and residual networks on {config.study.title}"
    parts = [html.paragraph(s) for s in sentences]
    if len({cell.depth for cell in found}) > 1:
        curves.depth_figure(depth_points(results, config.batch_size), figures / "depth.png", paper=paper(config))
        parts.append(html.image(figures / "depth.png", "Error against depth, with 95 % intervals, beside the paper's "
                                "(its plain nets read off figure 6)." if paper(config) else
                                "Error against depth, with 95 % intervals."))
    parts += [html.image(figures / "errors.png", "Training error (dashed) and test error (bold) over steps."),
              html.table(*body)]
    if config.diagnostics:
        chosen = why_cells(found)
        parts += why_depth.section({c.network: rows[c] for c in chosen},
                                   {c.network: of for c in chosen
                                    for of in why_depth.read(workdir, [c.folder]).values()}, figures)
    parts += [html.heading("Config"), html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "table.md", tables.markdown(*body))
    path = workdir / "report.html"
    workdirs.write(path, html.page(title, parts))

    tables.show(*body, title=title)
    print("\n".join(sentences))
    print(f"report: {path}")
    return path


def _panel(results: dict[Cell, dict[str, Any]], kind: str) -> str:
    """The title of a kind's curves: the test errors at their ends."""
    depths = sorted({cell.depth for cell in results if cell.kind == kind})
    means = [100 * float(np.mean([r["test_error"] for r in _runs(results, kind, depth)])) for depth in depths]
    return f"{kind}, test error: " + ", ".join(f"{mean:.1f} % at {depth}" for depth, mean in
                                               zip(depths, means, strict=True)) + " layers"


def why_cells(found: Sequence[Cell]) -> list[Cell]:
    """The cells that show why depth hurts: the deepest of each kind, of the first seed that has it."""
    deepest = {kind: max(cell.depth for cell in found if cell.kind == kind) for kind in dict.fromkeys(
        cell.kind for cell in found)}
    return [next(cell for cell in found if (cell.kind, cell.depth) == (kind, depth)) for kind, depth in deepest.items()]


def measure(config: ConfigDict, workdir: Path) -> None:
    """Measures why depth hurts on the checkpoints of `why_cells`, where that is not done yet.

    All processes of a study call it and measure the same, since a checkpoint is read by all of them together, and one
    that had ended would be missed by the others.
    """
    for cell in why_cells(list(cells(config))):
        if not why_depth.read(workdir, [cell.folder]):
            trained = networks.load_run(workdir / "cells" / cell.folder)
            dataset = datasets.load(config.data, cell.seed)
            measured = why_depth.measure(trained.module, trained.variables, dataset)
            if distributed.is_writer():
                why_depth.write(workdir, cell.folder, measured)


def foreign(config: ConfigDict, workdir: Path, found: Sequence[Cell]) -> list[str]:
    """A sentence on the cells whose own config is not the study's, with the fields that differ; none if all agree.

    Where the images lie, and how often a checkpoint is kept, are no part of a recipe.
    """
    told: dict[str, list[str]] = {}
    for cell in found:
        path = workdir / "cells" / cell.folder / "config.json"
        if path.exists():
            expected = json.loads(configs.dump(cell_config(config, cell)))
            changed = [text for text in workdirs.changes(json.loads(path.read_text()), expected)
                       if not text.startswith("checkpoint_every")]
            if changed:
                told.setdefault("; ".join(changed), []).append(cell.folder)
    return [f"Not trained by this study's own config: {', '.join(folders)} ({fields})."
            for fields, folders in told.items()]


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


def verdict(results: dict[Cell, dict[str, Any]], batch_size: int) -> list[str]:
    """What depth did to each kind, a sentence a kind: its test and its training error at the least and the greatest
    depth, each worse, better, or a difference not shown, with intervals.

    A difference is shown where its 95 % interval leaves out zero. The interval is that over the seeds (Welch's t);
    where a depth has one seed, that of shares measured on so many images.
    """
    sentences = []
    for kind in dict.fromkeys(cell.kind for cell in results):
        depths = sorted({cell.depth for cell in results if cell.kind == kind})
        if len(depths) < 2:
            continue
        shallow, deep = depths[0], depths[-1]
        test, test_said = _judged(results, kind, shallow, deep, "test_error", batch_size)
        train, train_said = _judged(results, kind, shallow, deep, "train_error", batch_size)
        meaning = {
            ("worse", "worse"): ": the deeper net fits its own training images worse, which is degradation and not "
                                "overfitting",
            ("worse", "better"): ": the deeper net fits its training images better and new ones worse, which is "
                                 "overfitting and not degradation",
            ("better", "better"): ": depth pays"}.get((test, train), "")
        counts = [len(_runs(results, kind, depth)) for depth in (shallow, deep)]
        sentences.append(f"{kind}, {deep} layers against {shallow} ({_seeds(counts)}): {test_said}, and "
                         f"{train_said}{meaning}.")
    single = any(len(runs) == 1 for runs in _by_network(results).values())
    sentences.append("Intervals are 95 %, over the seeds" + (
        "; of a network with one seed, of an error measured on so many images: that says nothing of the spread over "
        "seeds." if single else "."))
    return sentences


def _seeds(counts: Sequence[int]) -> str:
    said = ["one seed" if n == 1 else f"{n} seeds" for n in counts]
    return said[0] if len(set(said)) == 1 else f"{said[1]} against {said[0]}"


def _judged(results: dict[Cell, dict[str, Any]], kind: str, shallow: int, deep: int, key: str,
            batch_size: int) -> tuple[str, str]:
    """The verdict word of an error at two depths, and its clause with the numbers."""
    a, b = ([100 * r[key] for r in _runs(results, kind, depth)] for depth in (shallow, deep))
    difference, half = difference_interval(a, b)
    if math.isnan(half):
        half = math.hypot(*(_error_interval(results, kind, depth, key, batch_size)[1] for depth in (shallow, deep)))
    name = key.replace("_", " ").replace("train ", "training ")
    numbers = f"{np.mean(a):.2f} to {np.mean(b):.2f} %"
    if abs(difference) <= half:
        return "not shown", f"a difference in {name} is not shown ({numbers}: {difference:+.2f} ± {half:.2f} points)"
    word = "worse" if difference > 0 else "better"
    return word, f"{name} {word} by {abs(difference):.2f} ± {half:.2f} points ({numbers})"


def _runs(results: dict[Cell, dict[str, Any]], kind: str, depth: int) -> list[dict[str, Any]]:
    return [r for cell, r in results.items() if (cell.kind, cell.depth) == (kind, depth)]


def _error_interval(results: dict[Cell, dict[str, Any]], kind: str, depth: int, key: str,
                    batch_size: int) -> tuple[float, float]:
    """Mean error in % and half of its interval: over the seeds, or with one seed that of a share of so many images."""
    runs = _runs(results, kind, depth)
    mean, half = mean_interval([r[key] for r in runs])
    if math.isnan(half):
        # The training error is that of the batches of the last twentieth of the steps.
        images = runs[0]["test_images"] if key == "test_error" else max(1, runs[0]["steps"] * batch_size // 20)
        half = binomial_half_width(mean, images)
    return 100 * mean, 100 * half


def depth_points(results: dict[Cell, dict[str, Any]], batch_size: int) -> dict[str, list[tuple[int, float, float]]]:
    """The curves of the figure of error against depth: depth, error and half of its interval in %."""
    points: dict[str, list[tuple[int, float, float]]] = {}
    for kind, depth in dict.fromkeys((cell.kind, cell.depth) for cell in sorted(results)):
        for key, name in (("test_error", "test"), ("train_error", "training")):
            points.setdefault(f"{kind} {name}", []).append(
                (depth, *_error_interval(results, kind, depth, key, batch_size)))
    return points


PLAIN_PAPER = ((20, 9.5), (32, 10.0), (44, 12.0), (56, 13.5))
"""Test errors in % of He et al.'s plain nets on CIFAR-10, read off figure 6: the paper prints no numbers."""


def paper(config: ConfigDict) -> dict[str, list[tuple[int, float]]]:
    """What the paper reports of the depths of the study, by kind: depth and test error in %."""
    published = dict(config.study.published)
    residual = [(depth, published[f"resnet{depth}"]) for depth in sorted(config.study.depths)
                if f"resnet{depth}" in published]
    plain = [point for point in PLAIN_PAPER if point[0] in config.study.depths]
    return {kind: points for kind, points in (("plain", plain), ("resnet", residual)) if residual and points}
