"""Images a second from JPEG files to normalised batches, beside torch's DataLoader: `cnnjax bench input`.

Both decode, cut a random box to 224x224, flip half of the time and normalise, with one worker process, on one core, in
turn. The files are generated, of 500x375 pixels with the grain of a photograph.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.bench import verdict
from cnnjax.bench.answer import answer

HEADER = ("what", "images/s", "ratio")
SIZE, BATCH, BATCHES, AHEAD = 224, 32, 8, 6
"""Pixels of a crop's side; images of a batch; batches of a measured round; batches taken before it, which were made
while the other ran."""


def write_photograph(file: Path, rng: np.random.Generator, width: int, height: int) -> None:
    """Writes a JPEG with the smooth parts and the grain of a photograph, so that it takes as long to decode; its folder
    too."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth) + rng.normal(0, 12, (height, width, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=87)


def make_images(base: Path, count: int = 256) -> None:
    """Photographs of two classes, in train/ and test/."""
    for i in range(count):
        for split in ("train", "test") if i < 2 else ("train",):
            write_photograph(base / split / f"class{i % 2}" / f"{i:04}.jpg", np.random.default_rng(i), 500, 375)


def run(rounds: int = 9, torch_python: str = sys.executable) -> list[dict[str, Any]]:
    """Rows of cnnjax and, where `torch_python` has torchvision, of PyTorch; `ratio` is the rate over PyTorch's."""
    from cnnjax.bench import networks
    from cnnjax.networks import IMAGENET
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        mean, std = IMAGENET
        spec = {"folder": folder, "size": SIZE, "mean": mean, "std": std, "batch": BATCH, "batches": BATCHES,
                "ahead": AHEAD}
        base = dict(os.environ) | {"JAX_PLATFORMS": "cpu"}
        workers = {"cnnjax": networks.Worker([sys.executable, "-m", "cnnjax.bench.input"], spec, base),
                   "PyTorch": networks.torch_worker(torch_python, spec)}
        for worker in workers.values():
            worker.keep_on_one_core()
        seconds = networks.measure({name: worker for name, worker in workers.items() if worker.ready()}, rounds)
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": median(times), "times": times, "images_per_second": BATCH / median(times)}
        for name, times in seconds.items()]
    return [row | {"ratio": rows[-1]["seconds"] / row["seconds"]} if len(rows) > 1 else row for row in rows]


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows as text under `HEADER`."""
    return [[r["what"], f"{r['images_per_second']:.1f}", f"{r['ratio']:.2f}" if "ratio" in r else "-"] for r in rows]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """A line against PyTorch, none where it was missing."""
    times = {row["what"]: row["times"] for row in rows}
    return [verdict.against("input", times["cnnjax"], times["PyTorch"])] if "PyTorch" in times else []


def _work(spec: dict[str, Any]) -> None:
    """A contender's process: see `networks.Worker`."""
    import jax

    from cnnjax.data import augment, streaming
    images = streaming.open_folder(spec["folder"]).train
    mean, std = (np.array(spec[name], np.float32) for name in ("mean", "std"))
    normalise = jax.jit(lambda images: augment.normalise(images, mean, std))
    with streaming.training_batches(images, jax.random.key(0), spec["batch"], spec["size"], workers=1) as batches:
        def take(count: int) -> None:
            for _ in range(count):
                jax.block_until_ready(normalise(next(batches)["image"]))

        take(spec["ahead"])
        answer(lambda: take(spec["batches"]), before=lambda: take(spec["ahead"]), steps=spec["batches"])


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
