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

from cnnjax.bench.input import write_photograph


def make_photographs(base: Path, train: int = 5000, test: int = 200, classes: int = 10) -> None:
    """Writes the images, each of a class, to train/ and test/."""
    def write(task: tuple[str, int]) -> None:
        split, i = task
        rng = np.random.default_rng((len(split), i))
        width, height = rng.integers(200, 601, 2)
        write_photograph(base / split / f"class{i % classes}" / f"{i:05}.jpg", rng, width, height)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, [("train", i) for i in range(train)] + [("test", i) for i in range(test)]))


if __name__ == "__main__":
    make_photographs(Path(sys.argv[1]))
