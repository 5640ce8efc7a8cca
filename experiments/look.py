"""`cnnjax look`: pictures of what a trained network has learned, on images of its data set or on one of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnjax import classification, trained
from cnnjax import data as datasets
from cnnjax.data import assemble, augment
from cnnjax.errors import UserError
from cnnjax.networks import load_run, read_run
from cnnjax.reporting import look, why

from . import why_depth


def run(workdir: Path, *, count: int = 8, stage: str | None = None, step: int | None = None,
        image: Path | None = None, overrides: Sequence[str] = ()) -> list[Path]:
    """Draws into `workdir/figures` from the checkpoint of a run (of `step`; else the best, else the last).

    Shows the first `count` test images, or the file `image`, resized to what the network was trained on. `stage` is
    where to look; by default the network's last map. `overrides` are those of `classification.evaluate`. Gives the
    pictures' paths. Raises UserError for a folder that is no run, an unreadable image, an unknown stage or step, a
    count under 1, no image for a run on streamed ones.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected 1 or more")
    if image is not None:
        trained = load_run(workdir, step)
        images = read_image(image, trained.image_shape)[None]
    elif read_run(workdir).data.streamed:
        raise UserError(f"{workdir} was trained on streamed images, which are not kept: give one by --image FILE")
    else:
        trained, on_test = classification.scored(workdir, "test", step, overrides)
        images = np.asarray(on_test.dataset.test.images[:count])
    inputs = np.asarray(augment.normalise(images, trained.mean, trained.std))
    return look.run_look(trained.module, trained.variables, workdir / "figures", images=images, inputs=inputs,
                         classes=trained.classes, stage=stage)


def landscape(workdir: Path, *, step: int | None = None, networks: Sequence[str] = (),
              data: Path | None = None, overrides: Sequence[str] = ()) -> Path:
    """Draws the loss surface around a run's checkpoint into `workdir/figures/landscape.png`; gives its path.

    With `networks` it draws those that come with the package side by side instead, on the training images of `data`, a
    tar or folder of the data set that they were trained on; `workdir` then is only where the picture goes. Raises
    UserError for what `run` does, an unknown network, images of other classes.
    """
    if networks and data is None:
        raise UserError("look --trained needs --data PATH, a tar or folder of the images that it was trained on")
    surfaces: dict[str, Any] = {}
    if not networks:
        if read_run(workdir).data.streamed:
            raise UserError(f"{workdir} was trained on streamed images, which are not kept: --landscape needs them")
        at, on_train = classification.scored(workdir, "train", step, overrides)
        assert isinstance(on_train.dataset, datasets.Dataset)
        surfaces[at.config.model.name] = why_depth.loss_surface(
            at.module, at.variables, *why_depth.surface_images(on_train.dataset))
    for name in networks:
        module, variables, card = trained.load(name)
        assert data is not None
        dataset = datasets.load({"source": "folder" if data.is_dir() else "tar", "path": str(data)}, 0)
        if [list(dataset.classes), list(dataset.image_shape)] != [card["classes"], card["image_shape"]]:
            raise UserError(f"--data {data}: found images {dataset.image_shape} of classes "
                            f"{', '.join(dataset.classes)}; {name} was trained on {card['data']}, "
                            f"{card['image_shape']}")
        surfaces[name] = why_depth.loss_surface(module, variables, *why_depth.surface_images(dataset))
    path = workdir / "figures" / "landscape.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    why.surface_figure(surfaces, path)
    return path


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An image file as uint8 of this `(H, W, C)`, C 1 or 3, stretched to it. Raises UserError if it cannot be read."""
    if not path.is_file():
        raise UserError(f"--image {path}: {'a folder, expected an image file' if path.is_dir() else 'no such file'}")
    picture = Image.fromarray(assemble.read_image(path)).convert("L" if shape[2] == 1 else "RGB")
    return np.asarray(picture.resize((shape[1], shape[0])), np.uint8).reshape(shape)
