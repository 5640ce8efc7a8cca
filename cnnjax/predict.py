"""A trained classifier on image files: from a run, from PyTorch's weights or from the package; the classes it gives."""

import csv
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from cnnjax import class_names, interop, networks, trained
from cnnjax.config import user_path
from cnnjax.data import augment, decode, files
from cnnjax.data.preprocessing import Preprocessing
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHEET_IMAGES = 400
"""A contact sheet shows so many, the first ones."""

_BATCH = 32
_TILE, _COLUMNS = 160, 6        # pixels of a side, tiles of a row of the contact sheet


class Network(NamedTuple):
    """A trained classifier and what using it needs."""

    name: str                           # of `cnnjax.models`
    module: nn.Module
    variables: Any
    classes: tuple[str, ...]
    preprocessing: Preprocessing


    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the network takes."""
        return (*self.preprocessing.size, len(self.preprocessing.mean))

    def describe(self) -> dict[str, Any]:
        """What using it outside of cnnjax needs, as JSON: for the metadata of what is exported."""
        return {"network": self.name, "classes": list(self.classes), "image_shape": list(self.image_shape),
                "input": "float32 (pixels / 255 - mean) / std of RGB", "preprocessing": self.preprocessing.describe()}


class Prediction(NamedTuple):
    """The classes of an image, most probable first."""

    file: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def of_run(workdir: Path, step: int | None = None) -> Network:
    """The network of a run of `cnnjax train`, its checkpoint chosen as by `classification.evaluate`, and the run's own
    preprocessing."""
    run = networks.load_run(workdir, step)
    height, width, _ = run.image_shape
    side = run.config.data.image_size
    how: dict[str, Any] = {"style": "crop", "resize": round(side * 256 / 224)} if run.config.data.streamed else {}
    mean, std = (tuple(map(float, values)) for values in (run.mean, run.std))
    return Network(run.config.model.name, run.module, run.variables, run.classes,
                   Preprocessing((height, width), mean, std, **how))


def of_weights(name: str, weights: str, *, classes: Path | None = None, mean: Sequence[float] | None = None,
               std: Sequence[float] | None = None) -> Network:
    """The network `name` with the weights of a file of PyTorch, or of the package: `weights="cifar10"`.

    Images are prepared as by torchvision: shorter side 256, centre 224, ImageNet's mean and std (GoogLeNet's 0.5);
    32x32 for the CIFAR networks, whose mean and std differ between repositories: give theirs. `classes` is a file of
    their names (`class_names.read`); by default ImageNet's where there are 1000. Raises UserError where names are
    missing, or are not as many as the network's classes.
    """
    if weights in trained.DATA_SETS and not user_path(weights).is_file():
        module, variables, card = trained.load(name)
        height, width, _ = card["image_shape"]
        mean, std = mean or card["mean"], std or card["std"]
        names, preprocessing = tuple(card["classes"]), Preprocessing((height, width), tuple(mean), tuple(std))
    else:
        module, variables = interop.network_from_torch(name, weights)
        known = networks.colours(module)
        colours = tuple(mean or (known or networks.IMAGENET)[0]), tuple(std or (known or networks.IMAGENET)[1])
        preprocessing = (Preprocessing((32, 32), *colours) if known is None else
                         Preprocessing((224, 224), *colours, style="torchvision", resize=256))
        names = class_names.known("imagenet") if module.num_classes == 1000 else ()
    if classes is not None:
        names = class_names.read(classes)
    if not names:
        raise UserError(f"{weights}: has {module.num_classes} classes, whose names are not known; give a file of them "
                        "by --classes, one a line")
    if len(names) != module.num_classes:
        raise UserError(f"{classes}: names {len(names)} classes, but {weights} has {module.num_classes}")
    return Network(name, module, variables, names, preprocessing)


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The image files among `paths` and at any depth below the folders among them; a line for each file left out.

    Raises UserError for a path that is not there, and where there is no image at all.
    """
    found: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        if path.is_dir():
            tree = files.walk(path)
            left_out += [f"{path}/{line}" for line in tree.left_out]
            for name in tree.files:
                if Path(name).suffix.lower() in decode.SUFFIXES:
                    found.append(path / name)
                else:
                    left_out.append(f"{path}/{name}: no image")
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such image or folder")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no image ({', '.join(decode.SUFFIXES)}) there")
    return list(dict.fromkeys(found)), left_out


def predict(network: Network, paths: Sequence[Path], *, top: int = 5, flip: bool = False, ten_crop: bool = False,
            batch_size: int = _BATCH) -> tuple[list[Prediction], list[str]]:
    """The `top` classes of each image, and a line for each file that cannot be read.

    Probabilities are the softmax's, the mean over mirror images (`flip`) or ten crops, computed for `batch_size` views
    at a time. Raises UserError for weights that give no finite ones.
    """
    batch_size = max(1, batch_size // (10 if ten_crop else 2 if flip else 1))
    probabilities = jax.jit(lambda variables, images: _probabilities(network, variables, images))
    predictions: list[Prediction] = []
    unread: list[str] = []

    def views(path: Path) -> np.ndarray | decode.BadImage:
        try:
            return network.preprocessing.views(decode.read_file(path), str(path), flip=flip, ten_crop=ten_crop)
        except decode.BadImage as error:
            return error

    console = Console(stderr=True)
    batches = [paths[i:i + batch_size] for i in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor() as pool:
        for batch in track(batches, "predict", console=console, disable=not console.is_terminal):
            read = list(zip(batch, pool.map(views, batch), strict=True))
            unread += [str(found) for _, found in read if isinstance(found, decode.BadImage)]
            good = [(path, found) for path, found in read if not isinstance(found, decode.BadImage)]
            if not good:
                continue
            images = np.stack([found for _, found in good])
            rows = min(batch_size, len(paths))              # the last batch is filled up: one program serves them all
            images = np.concatenate([images, np.zeros((rows - len(images), *images.shape[1:]), np.uint8)])
            for (path, _), row in zip(good, np.asarray(probabilities(network.variables, images)), strict=False):
                if not np.isfinite(row).all():
                    raise UserError(f"{path}: the network gives no finite probabilities for it; its weights are broken")
                best = np.argsort(-row, kind="stable")[:top]
                predictions.append(Prediction(path, tuple(network.classes[i] for i in best),
                                              tuple(float(row[i]) for i in best)))
    return predictions, unread


def _probabilities(network: Network, variables: Any, images: jax.Array) -> jax.Array:
    """uint8 (N, views, H, W, C) to (N, classes), the mean over the views."""
    x = augment.normalise(images, np.array(network.preprocessing.mean), np.array(network.preprocessing.std))
    with jax.default_matmul_precision("highest"):           # of an accelerator: else it rounds to 10 bits
        logits = network.module.apply(variables, x.reshape(-1, *x.shape[2:]), train=False)
    return jax.nn.softmax(logits).reshape(*images.shape[:2], -1).mean(1)


def to_json(predictions: Sequence[Prediction]) -> str:
    """A list of `{"file", "predictions": [{"class", "probability"}]}`, probabilities with six digits."""
    return workdirs.to_json([{"file": str(p.file), "predictions": [
        {"class": name, "probability": round(value, 6)}
        for name, value in zip(p.classes, p.probabilities, strict=True)]} for p in predictions], indent=1) + "\n"


def to_csv(predictions: Sequence[Prediction]) -> str:
    """Lines of file, rank (from 1), class, probability."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("file", "rank", "class", "probability"))
    for file, rank, name, value in _rows(predictions):
        writer.writerow((file, rank, name, f"{value:.6f}"))
    return out.getvalue()


def to_table(predictions: Sequence[Prediction]) -> list[tuple[str, str, str]]:
    """Rows of file (once an image), class, probability in %."""
    return [(str(file) if rank == 1 else "", name, f"{100 * value:.2f}") for file, rank, name, value in
            _rows(predictions)]


def _rows(predictions: Sequence[Prediction]) -> Iterator[tuple[Path, int, str, float]]:
    for p in predictions:
        for rank, name, value in zip(itertools.count(1), p.classes, p.probabilities, strict=False):
            yield p.file, rank, name, value


def contact_sheet(predictions: Sequence[Prediction]) -> Image.Image:
    """The first `SHEET_IMAGES` images in rows, under each its most probable class and file."""
    shown = predictions[:SHEET_IMAGES]
    columns = min(_COLUMNS, len(shown))
    width, height = _TILE + 12, _TILE + 40
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (file, classes, probabilities) in enumerate(shown):
        x, y = i % columns * width + 6, i // columns * height + 6
        image = decode.to_rgb(decode.open_header(decode.read_file(file), str(file)), str(file))
        image.thumbnail((_TILE, _TILE))
        sheet.paste(image, (x + (_TILE - image.width) // 2, y + (_TILE - image.height) // 2))
        for line, text in enumerate((f"{100 * probabilities[0]:.1f} % {classes[0]}", file.name)):
            pen.text((x, y + _TILE + 3 + 13 * line), _shortened(text, pen), fill="black" if line == 0 else "grey")
    return sheet


def _shortened(text: str, pen: ImageDraw.ImageDraw) -> str:
    if pen.textlength(text) <= _TILE:
        return text
    while text and pen.textlength(f"{text}…") > _TILE:
        text = text[:-1]
    return f"{text}…"


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], overwrite: bool) -> None:
    """Raises UserError for an output that is an input or another output, and for one that exists unless `overwrite`."""
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise UserError(f"{path}: is one of the images, or written to twice; choose another file")
        if path.exists() and not overwrite:
            raise UserError(f"{path} is there already; choose another file, or give --overwrite")
        taken.add(path.resolve())


def run(network: Network, paths: Sequence[Path], *, top: int = 5, flip: bool = False, ten_crop: bool = False,
        json_file: Path | None = None, csv_file: Path | None = None, sheet: Path | None = None,
        overwrite: bool = False) -> tuple[list[Prediction], list[str]]:
    """`predict` on files and folders, written to the files that are given; says on standard error what is left out."""
    images, left_out = image_files(paths)
    outputs = [path for path in (json_file, csv_file, sheet) if path is not None]
    check_outputs(outputs, images, overwrite)
    if sheet is not None and sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise UserError(f"--sheet {sheet}: found the suffix {sheet.suffix!r}, expected one of "
                        f"{', '.join(SHEET_SUFFIXES)}")
    for line in left_out:
        print(f"left out {line}", file=sys.stderr)
    print(f"{network.name}, {len(network.classes)} classes; images: {network.preprocessing}", file=sys.stderr)
    predictions, unread = predict(network, images, top=top, flip=flip, ten_crop=ten_crop)
    for line in unread:
        print(f"left out {line}", file=sys.stderr)
    if json_file is not None:
        workdirs.write(json_file, to_json(predictions))
    if csv_file is not None:
        workdirs.write(csv_file, to_csv(predictions))
    if sheet is not None and predictions:
        contact_sheet(predictions).save(sheet)
        if len(predictions) > SHEET_IMAGES:
            print(f"{sheet} shows the first {SHEET_IMAGES} of {len(predictions)} images", file=sys.stderr)
    return predictions, unread
