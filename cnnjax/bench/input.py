"""Images a second from JPEG files to normalised batches, beside torch's DataLoader: `cnnjax bench input`.

Both decode, cut a random box to 224x224, flip half of the time and normalise, with one worker process, on one core, in
turn. The files are generated, of 500x375 pixels with the grain of a photograph.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.bench import verdict

HEADER = ("what", "images/s", "ratio")
BATCH, BATCHES, AHEAD = 32, 8, 6
"""Images of a batch; batches of a measured round; batches taken before it, which were made while the other ran."""


def make_images(base: Path, count: int = 256) -> None:
    """JPEG files of two classes with the smooth parts and the grain of photographs, in train/ and test/."""
    for i in range(count):
        rng = np.random.default_rng(i)
        smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth) + rng.normal(0, 12, (375, 500, 1))
        for split in ("train", "test") if i < 2 else ("train",):
            file = base / split / f"class{i % 2}" / f"{i:04}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=87)


def run(rounds: int = 9, torch_python: str = sys.executable) -> list[dict[str, Any]]:
    """Rows of cnnjax and, where `torch_python` has torchvision, of PyTorch; `ratio` is the rate over PyTorch's."""
    from cnnjax.bench import networks
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        spec = {"folder": folder, "batch": BATCH, "batches": BATCHES, "ahead": AHEAD, "core": networks.first_core()}
        base = dict(os.environ) | {"JAX_PLATFORMS": "cpu"}
        workers = {"cnnjax": networks.Worker([sys.executable, "-m", "cnnjax.bench.input"], spec, base),
                   "PyTorch": networks.torch_worker(torch_python, spec)}
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
    """A contender's process: seconds a batch for every line, as `networks.Worker` asks."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {spec["core"]})         # before JAX starts its threads; the worker inherits it
    import jax

    from cnnjax.data import augment, streaming
    images = streaming.open_folder(spec["folder"]).train
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    normalise = jax.jit(lambda images: augment.normalise(images, mean, std))
    with streaming.training_batches(images, jax.random.key(0), spec["batch"], 224, workers=1) as batches:
        def take(count: int) -> None:
            for _ in range(count):
                jax.block_until_ready(normalise(next(batches)["image"]))

        take(spec["ahead"])
        print("ready", flush=True)
        for _ in sys.stdin:
            take(spec["ahead"])
            began = time.perf_counter()
            take(spec["batches"])
            print((time.perf_counter() - began) / spec["batches"], flush=True)


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
