"""Writes a folder of JPEG images of mixed sizes, to measure how streamed photographs keep a training step fed.

    python scripts/make_photographs.py FOLDER
    cnnjax bench data --config.data.source=folder --config.data.path=FOLDER --config.data.streamed=True \
        --config.data.image_size=224 --config.model.name=resnet18 --config.batch_size=32

5,000 to train on and 200 to test, of 200 to 600 pixels a side, ten classes, about 300 MB.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image


def make_photographs(base: Path, train: int = 5000, test: int = 200, classes: int = 10) -> None:
    """Writes images with the smooth parts and the grain of photographs, so that they take as long to decode."""
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


if __name__ == "__main__":
    make_photographs(Path(sys.argv[1]))
