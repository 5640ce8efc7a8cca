"""Does the data keep the step fed? Trains a network on a folder of photographs of mixed sizes and prints the rates.

    python scripts/bench_streaming.py [--folder FOLDER] [--model resnet18] [--batch-size 32] [--size 224] [--workers 0]

Without --folder it makes 5,000 JPEG images of 200 to 600 pixels a side (about 300 MB) in a temporary folder.
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from cnnjax import models
from cnnjax.data import augment, streaming


def make_photographs(base: Path, train: int = 5000, test: int = 200, classes: int = 10) -> None:
    """Writes JPEG images with the smooth parts and the grain of photographs, so that they take as long to decode."""
    def write(task: tuple[str, int]) -> None:
        split, i = task
        rng = np.random.default_rng((len(split), i))
        width, height = rng.integers(200, 601, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth) + rng.normal(0, 12, (height, width, 1))
        file = base / split / f"class{i % classes}" / f"{i:05}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=87)

    for split in ("train", "test"):
        for kind in range(classes):
            (base / split / f"class{kind}").mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, [("train", i) for i in range(train)] + [("test", i) for i in range(test)]))


def make_step(model: str, classes: int, size: int, learning_rate: float = 0.01):
    """A jitted training step that keeps its state to itself: batch -> loss."""
    module = models.create(model, classes)
    optimizer = optax.sgd(learning_rate, 0.9)
    variables = jax.jit(lambda key: module.init(key, jnp.zeros((1, size, size, 3)), train=False))(jax.random.key(0))
    params, statistics = variables["params"], variables.get("batch_stats", {})
    state = params, statistics, optimizer.init(params)

    @jax.jit
    def update(state, image, label, key):
        params, statistics, moments = state
        image = augment.normalise(image, jnp.full(3, 0.45), jnp.full(3, 0.25))

        def loss_fn(params):
            logits, new = module.apply({"params": params, "batch_stats": statistics}, image, train=True,
                                       mutable=["batch_stats"], rngs={"dropout": key})
            logits = logits[0] if isinstance(logits, tuple) else logits
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            return loss, new.get("batch_stats", {})

        (loss, new), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), new, moments), loss

    def step(batch):
        nonlocal state
        state, loss = update(state, batch["image"], batch["label"], jax.random.key(1))
        return loss
    return step


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core")
    parser.add_argument("--count", type=int, default=10, help="batches timed each way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if not arguments.folder:
            print("making 5,000 photographs", file=sys.stderr)
            make_photographs(Path(scratch))
        photographs = streaming.open_folder(arguments.folder or scratch)
        step = make_step(arguments.model, len(photographs.classes), arguments.size)
        with streaming.training_batches(photographs.train, jax.random.key(0), arguments.batch_size, arguments.size,
                                        workers=arguments.workers) as batches:
            rates = streaming.measure(batches, step, arguments.count)
    print(f"{arguments.model}, batches of {arguments.batch_size} at {arguments.size}, {len(photographs.train)} images, "
          f"{arguments.workers or os.cpu_count()} workers on {os.cpu_count()} cores, {jax.devices()[0].device_kind}")
    print(f"data alone {rates.data:8.1f} images/s\nstep alone {rates.step:8.1f} images/s\n"
          f"both       {rates.both:8.1f} images/s, {rates.waiting:.1%} of the time spent waiting for data")


if __name__ == "__main__":
    main()
