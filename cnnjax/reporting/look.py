"""`cnnjax look`: what a network has learned and where it looks: first kernels, feature maps, Grad-CAM."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cnnjax.config import nearest
from cnnjax.errors import UserError
from cnnjax.models.alexnet import AlexNet

matplotlib.use("agg")


def run_look(module: nn.Module, variables: Mapping[str, Any], folder: Path, *, images: np.ndarray,
             inputs: np.ndarray, classes: Sequence[str], stage: str | None = None) -> list[Path]:
    """Draws `kernels.png`, `features.png` (of the first image) and `grad_cam.png` into `folder`; gives their paths.

    `images` `(N, H, W, C)` are uint8, as people see them, `inputs` the same ones normalised for the network. `stage` is
    a name of the network's `features=True`; by default the last that is a map of more than one pixel. Raises UserError
    for another.
    """
    maps = stages(module, variables, inputs)
    if stage is None:
        stage = [name for name, x in maps.items() if x.ndim == 4 and x.shape[1] > 1][-1]
    if stage not in maps or maps[stage].ndim != 4:
        known = [name for name, x in maps.items() if x.ndim == 4]
        raise UserError(f"--stage {stage}: no such map{nearest(stage, known)}; known are {', '.join(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    draw_kernels(module, variables["params"], folder / "kernels.png")
    draw_features(maps[stage][0], stage, folder / "features.png")
    logits, heat = grad_cam(module, variables, inputs, stage)
    draw_grad_cam(images, logits, heat, classes, folder / "grad_cam.png")
    return [folder / name for name in ("kernels.png", "features.png", "grad_cam.png")]


def stages(module: nn.Module, variables: Mapping[str, Any], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the network's stages by name, in the order they are made."""
    order: list[str] = []                   # jit would sort a dict

    def run(variables: Mapping[str, Any], x: jax.Array) -> list[jax.Array]:
        made = module.apply(variables, x, features=True)
        order[:] = made
        return list(made.values())

    outputs = jax.jit(run)(variables, inputs)
    return {name: np.asarray(x, np.float32) for name, x in zip(order, outputs, strict=True)}


def grad_cam(module: nn.Module, variables: Mapping[str, Any], inputs: np.ndarray, stage: str,
             labels: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(N, classes)`, and Grad-CAM of `labels` (N; by default the predicted) at a stage: `(N, h, w)` in [0, 1].

    The channels of the stage, weighted by the mean over the map of the score's gradient, summed and rectified
    (Selvaraju et al. 2017, equations 1 and 2), then divided by the greatest value of each image; all zero where nothing
    speaks for the class.
    """
    @jax.jit
    def run(variables: Mapping[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        maps = module.apply(variables, x, features=True)

        def score(moved: jax.Array) -> tuple[jax.Array, jax.Array]:
            moves = {name: moved if name == stage else jnp.zeros_like(m) for name, m in maps.items()}
            logits = module.apply({**variables, "perturbations": moves}, x)
            chosen = logits.argmax(-1) if labels is None else jnp.asarray(labels)
            return jnp.take_along_axis(logits, chosen[:, None], 1).sum(), logits

        gradient, logits = jax.grad(score, has_aux=True)(jnp.zeros_like(maps[stage]))
        weights = gradient.mean((1, 2), keepdims=True)                          # (N, 1, 1, C)
        return logits, nn.relu((weights * maps[stage]).sum(-1))                 # (N, h, w)

    logits, heat = run(variables, inputs)
    greatest = heat.max((1, 2), keepdims=True)
    return np.asarray(logits), np.asarray(jnp.where(greatest > 0, heat / greatest, 0))


def first_kernel(params: Mapping[str, Any]) -> np.ndarray:
    """The kernel of the convolution that reads the image, `(k, k, C, filters)`, whatever the network calls it."""
    name = next(name for name in ("conv1", "conv1_1", "C1") if name in params)
    layer = params[name]
    return np.asarray(layer["conv"]["kernel"] if "conv" in layer else layer["kernel"])


def tile(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """`(N, h, w, C)` in rows of `columns`, with white between: `(H, W, C)`."""
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for i, picture in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y:y + height, x:x + width] = picture
    return sheet


def draw_kernels(module: nn.Module, params: Mapping[str, Any], path: Path) -> None:
    """The first layer's kernels, zero in grey, all on one scale. An AlexNet of two groups: a sheet for each GPU's."""
    kernel = first_kernel(params)
    pictures = 0.5 + 0.5 * kernel.transpose(3, 0, 1, 2) / max(np.abs(kernel).max(), 1e-12)
    if pictures.shape[-1] not in (1, 3):
        pictures = pictures.mean(-1, keepdims=True)
    groups = module.groups if isinstance(module, AlexNet) else 1
    sheets = np.split(pictures, groups)
    figure = Figure(figsize=(4.2 * groups, 4.4), layout="constrained")
    for i, (axis, sheet) in enumerate(zip(figure.subplots(1, groups, squeeze=False)[0], sheets, strict=True), 1):
        axis.imshow(tile(sheet, int(np.ceil(np.sqrt(len(sheet))))), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"first kernels{f', GPU {i}' if groups > 1 else ''}: {len(sheet)} of "
                       f"{kernel.shape[0]}x{kernel.shape[1]}", fontsize="medium")
        axis.axis("off")
    figure.savefig(path, dpi=150)


def draw_features(maps: np.ndarray, stage: str, path: Path, most: int = 64) -> None:
    """The channels of one image's map `(h, w, C)`, the `most` strongest ones, each on its own scale, strongest
    first."""
    strongest = np.argsort(-np.abs(maps).mean((0, 1)), kind="stable")[:most]
    shown = maps[..., strongest].transpose(2, 0, 1)[..., None]                  # (n, h, w, 1)
    low, high = shown.min((1, 2), keepdims=True), shown.max((1, 2), keepdims=True)
    sheet = tile((shown - low) / np.maximum(high - low, 1e-12), int(np.ceil(np.sqrt(len(shown)))))
    figure = Figure(figsize=(5, 5.3), layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    axis.set_title(f"{stage}: {len(shown)} of {maps.shape[-1]} channels, {maps.shape[0]}x{maps.shape[1]}",
                   fontsize="medium")
    axis.axis("off")
    figure.savefig(path, dpi=150)


def draw_grad_cam(images: np.ndarray, logits: np.ndarray, heat: np.ndarray, classes: Sequence[str],
                  path: Path) -> None:
    """Each image above itself under its Grad-CAM, with the class that was looked for."""
    count = len(images)
    figure = Figure(figsize=(1.6 * count, 3.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for i in range(count):
        extent = (0, images.shape[2], images.shape[1], 0)
        for axis in axes[:, i]:
            axis.imshow(images[i], cmap="gray", extent=extent)
            axis.axis("off")
        axes[0, i].set_title(classes[int(logits[i].argmax())], fontsize="small")
        axes[1, i].imshow(heat[i], cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent, interpolation="bilinear")
    figure.savefig(path, dpi=150)
