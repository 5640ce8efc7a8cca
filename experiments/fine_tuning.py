"""Fine-tuning against training from scratch, at equal steps, on few images of classes never seen before.

    python -m cnnjax.experiments.fine_tuning --tar cifar10.tar.gz --workdir runs/fine_tuning

ResNet-20 is trained on the first five classes of CIFAR-10. Then, for each seed, 100 images of each of the other five
are drawn, and the network is trained on them twice by one config: from random weights, and from those of the first
training, the last layer new. Prints the test errors on the other five classes as a Markdown table, and writes them to
`WORKDIR/fine_tuning.json`. Stopped, it goes on by the same command.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnnjax import classification
from cnnjax import data as datasets
from cnnjax.configs import defaults
from cnnjax.data.sets import Dataset, ImageSet
from cnnjax.reporting import tables
from cnnjax.reporting.statistics import difference_interval, mean_interval
from cnnjax.training import run as runs
from cnnjax.training import workdir as workdirs

SEEDS = (0, 1, 2)
FIRST_STEPS, STEPS = 500, 40   # of the first training and of those compared; 128 images a step
IMAGES = 100        # of each class to fine-tune on
HEADER = ("from", *(f"seed {seed}" for seed in SEEDS), "mean", "95 % interval")


def config(steps: int, learning_rate: float) -> ConfigDict:
    """ResNet-20 by the recipe of `configs/depth/cifar10_budget.py`."""
    made = defaults.classification()
    made.model.name = "resnet20"
    made.steps = made.eval_every = steps
    made.checkpoint_every, made.log_every = 50, 20
    made.schedule.update(name="polynomial", warmup_steps=0.1, boundaries=())
    made.optimizer.update(learning_rate=learning_rate, nesterov=True, weight_decay=5e-4)
    return made


def of_classes(whole: Dataset, classes: Sequence[int], per_class: int | None = None, seed: int = 0) -> Dataset:
    """The images of some classes, numbered anew; of the training split `per_class` each, drawn by seed."""
    rng = np.random.default_rng(seed)

    def part(split: ImageSet, most: int | None) -> ImageSet:
        rows = [rng.permutation(np.flatnonzero(split.labels == c))[:most] for c in classes]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(own) for own in rows])
        return ImageSet(split.images[np.concatenate(rows)], labels)

    train = part(whole.train, per_class)
    mean, std = datasets.statistics(train.images)
    return Dataset(train, None, part(whole.test, None), tuple(whole.classes[c] for c in classes), mean, std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tar", required=True, type=Path, help="of the original CIFAR-10")
    parser.add_argument("--workdir", required=True, type=Path)
    options = parser.parse_args()
    whole = datasets.load({"source": "tar", "path": str(options.tar)}, 0)
    first = options.workdir / "first"
    before = classification.train(config(FIRST_STEPS, 0.1), first, dataset=of_classes(whole, range(5)))
    errors: dict[str, list[float]] = {"random weights": [], "five other classes": []}
    for seed in SEEDS:
        few = of_classes(whole, range(5, 10), IMAGES, seed)
        for name, weights in zip(errors, ("", str(first)), strict=True):
            own = config(STEPS, 0.05)
            own.seed, own.init.weights = seed, weights
            folder = options.workdir / f"{'tuned' if weights else 'scratch'}-seed{seed}"
            errors[name].append(100 * classification.train(own, folder, dataset=few)["test_error"])
    rows = []
    for name, values in errors.items():
        mean, half = mean_interval(values)
        rows.append([name, *(f"{value:.1f}" for value in values), f"{mean:.1f}", f"± {half:.1f}"])
    print(f"The first training: test error {100 * before['test_error']:.1f} % on its five classes.")
    print(tables.markdown(HEADER, rows))
    difference, half = difference_interval(*errors.values())
    print(f"Fine-tuning less training from scratch: {difference:+.1f} ± {half:.1f} points.")
    said = {"network": "resnet20", "first_steps": FIRST_STEPS, "steps": STEPS, "images_per_class": IMAGES,
            "classes": whole.classes, "seeds": SEEDS, "commit": runs.description(first)["commit"],
            "first_test_error_percent": before["test_error"] * 100, "test_error_percent": errors,
            "difference": [difference, half]}
    workdirs.write(options.workdir / "fine_tuning.json", workdirs.to_json(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
