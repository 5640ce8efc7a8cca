"""Measurements on a depth study's trained networks that explain why deep plain ones are worse, and their report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnnjax import data as datasets
from cnnjax import diagnostics, landscape
from cnnjax.data import augment
from cnnjax.reporting import html, why
from cnnjax.training import workdir as workdirs

SURFACE_IMAGES, REMOVAL_IMAGES, CORRELATION_IMAGES = 500, 500, 64


def measure(module: nn.Module, variables: Mapping[str, Any], dataset: datasets.Dataset) -> dict[str, Any]:
    """Loss surface, errors without each block, and gradient correlation of a trained network, as a JSON object.

    Surface and correlation are on training images, the errors on test images, the first of a fixed permutation.
    """
    train, labels = surface_images(dataset)
    untrained = jax.jit(module.init)(jax.random.key(0), train[:1])
    some = train[:CORRELATION_IMAGES], labels[:CORRELATION_IMAGES]
    return {
        "surface": loss_surface(module, variables, train, labels),
        "removal": diagnostics.block_removal(module, variables, *_some(dataset.test, dataset, REMOVAL_IMAGES)),
        "correlation": {"untrained": diagnostics.gradient_correlation(module, untrained, *some),
                        "trained": diagnostics.gradient_correlation(module, variables, *some), "images": len(some[1])},
    }


def loss_surface(module: nn.Module, variables: Mapping[str, Any], inputs: Any, labels: Any, *,
                 points: int = 15) -> dict[str, Any]:
    """The loss in two random filter-normalised directions around a network: `steps` (n,), `loss` (n, n), how many
    `images`."""
    evaluate, params = diagnostics.mean_loss_and_error(module, inputs, labels), variables["params"]
    directions = [landscape.random_direction(params, key) for key in jax.random.split(jax.random.key(0))]
    steps, loss = landscape.surface(lambda p: evaluate({**variables, "params": p})[0], params, directions,
                                    points=points)
    return {"steps": steps.tolist(), "images": len(labels), "loss": loss.tolist()}


def surface_images(dataset: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The training images that a loss surface is measured on, normalised, and their labels: at most a twentieth of
    them, which keeps the embedded study short."""
    return _some(dataset.train, dataset, min(SURFACE_IMAGES, max(1, len(dataset.train.labels) // 20)))


def _some(split: datasets.ImageSet, dataset: datasets.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a split, normalised, and their labels, shuffled: a folder's images are sorted by class."""
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
    images = augment.normalise(np.asarray(split.images[chosen]), dataset.mean, dataset.std)
    return np.asarray(images), np.asarray(split.labels[chosen])


def read(workdir: Path, cells: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What was measured of these cells, by cell; a cell that was not is left out."""
    paths = {cell: workdir / "why" / f"{cell}.json" for cell in cells}
    return {cell: json.loads(path.read_text()) for cell, path in paths.items() if path.exists()}


def write(workdir: Path, cell: str, measured: Mapping[str, Any]) -> None:
    """Keeps what was measured of a cell, for `read`."""
    (workdir / "why").mkdir(exist_ok=True)
    workdirs.write(workdir / "why" / f"{cell}.json", workdirs.to_json(measured) + "\n")


def section(rows: Mapping[str, Sequence[Mapping[str, Any]]], measured: Mapping[str, Mapping[str, Any]],
            figures: Path) -> list[str]:
    """The part of the report: `rows` maps a network to its rows of metrics.jsonl, `measured` to what `measure` gave."""
    parts = [html.heading("Why depth hurts")]
    layers = {name: [row for row in several if row["split"] == "layers"] for name, several in rows.items()}
    layers = {name: several for name, several in layers.items() if several}
    if layers:
        why.layers_figure(layers, figures / "layers.png", keys={
            "response_std": "std of the response", "gradient_norm": "gradient norm of the kernel"})
        parts.append(html.image(figures / "layers.png", (
            "What reaches each layer while training goes on, on one batch of training images. Above: the standard "
            "deviation of its response after batch normalisation, before ReLU and addition (He et al. 2015, figure 7); "
            "below: the norm of the loss's gradient at its kernel.")))
    parts += [html.paragraph(sentence) for sentence in findings(layers, measured)]
    if not measured:
        return parts
    surfaces = {name: of["surface"] for name, of in measured.items()}
    why.surface_figure(surfaces, figures / "surface.png")
    why.removal_figure({name: of["removal"] for name, of in measured.items()}, figures / "removal.png")
    why.correlation_figure({name: of["correlation"] for name, of in measured.items()}, figures / "correlation.png")
    first = next(iter(measured.values()))
    return [*parts, html.image(figures / "surface.png", (
        f"The loss on {first['surface']['images']} training images in two random filter-normalised directions around "
        "the trained network, batch norm in evaluation mode, no direction in biases and norms (Li et al. 2018).")),
        html.image(figures / "removal.png", (
            f"Error on {first['removal']['images']} test images with each block removed in turn: its shortcut alone is "
            "left, or, in a plain network, put in its place (Veit et al. 2016, figure 3).")),
        html.image(figures / "correlation.png", (
            f"Cosine of the gradients of the right class's logit at {first['correlation']['images']} images and at "
            "each moved a tenth of the way to another one (Balduzzi et al. 2017)."))]


def findings(layers: Mapping[str, Sequence[Mapping[str, Any]]],
             measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence a network on what was measured: numbers, and no judgement that they do not carry."""
    sentences = []
    for name in dict.fromkeys([*layers, *measured]):
        said = []
        if name in layers:
            row = layers[name][-1]
            first, last = why.thirds(row["gradient_norm"])
            said.append(f"gradient norm at step {row['step']} {first:.2g} in the first third of the layers and "
                        f"{last:.2g} in the last, response {np.median(row['response_std']):.2g} (medians)")
        if name in measured:
            removal, correlation = measured[name]["removal"], measured[name]["correlation"]
            middle, median, most = why.surface_levels(measured[name]["surface"])
            said += [f"loss {middle:.2f} where training ended, in the square of directions around it {median:.2f} "
                     f"(median) and at most {most:.2f}",
                     f"error {100 * removal['whole']:.1f} % whole, {100 * np.median(removal['error']):.1f} % (median) "
                     f"and at most {100 * max(removal['error']):.1f} % with one block removed",
                     f"gradient correlation at the image {correlation['untrained'][0]:z.2f} untrained, "
                     f"{correlation['trained'][0]:z.2f} trained"]
        sentences.append(f"{name}: {'; '.join(said)}.")
    return sentences
