"""Makes a trained network of the package, weights in float16 and model card, from a finished run; tests it anew.

    python scripts/make_trained.py FOLDER --data cifar10.tar.gz --commit 454e1e4

FOLDER holds config.json, result.json and weights.safetensors (PyTorch's names; `cnnjax.interop.to_torch`). Weights
whose test error changes by more than 0.02 points when they are rounded to float16 are refused.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from cnnjax import data, interop, models, trained
from cnnjax.data import augment
from cnnjax.diagnostics import mean_loss_and_error

RECIPE = ("batch_size", "steps", "seed", "optimizer", "schedule")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("--data", required=True, help="the tar of the original images")
    parser.add_argument("--cache", default="", help="of decoded images; default: the user's cache directory")
    parser.add_argument("--commit", required=True, help="that the run was made with")
    parser.add_argument("--title", default="CIFAR-10, the original images")
    options = parser.parse_args()
    config, result = (json.loads((options.folder / f"{name}.json").read_text()) for name in ("config", "result"))
    name = config["model"]["name"]
    dataset = data.load({"source": "tar", "path": options.data, "cache": options.cache}, 0)

    state = {key: value.astype(np.float16) if value.dtype == np.float32 else value for key, value in
             interop.read_state(options.folder / "weights.safetensors").items() if "num_batches_tracked" not in key}
    inputs = np.asarray(augment.normalise(np.asarray(dataset.test.images), dataset.mean, dataset.std))
    variables = interop.from_torch(name, state)
    loss, error = mean_loss_and_error(models.create(name, 10), inputs, dataset.test.labels)(variables)
    print(f"{name}: test error {100 * result['test_error']:.2f} % as trained, {100 * error:.2f} % in float16")
    if abs(error - result["test_error"]) > 2e-4 + 1e-9:
        raise SystemExit(f"{name}: float16 changes the test error")

    card = {
        "network": name, "parameters": result["parameters"], "data": options.title,
        "image_shape": list(dataset.image_shape), "classes": list(dataset.classes),
        "mean": dataset.mean.tolist(), "std": dataset.std.tolist(),
        "recipe": {key: config[key] for key in RECIPE} |
                  {"augmentation": {key: config["data"][key] for key in ("pad", "flip")}},
        "train_error": result["train_error"], "test_error": result["test_error"],
        "test_error_of_these_weights": error, "test_loss_of_these_weights": loss, "test_images": len(inputs),
        "dtype": "float16 in the file, float32 when loaded", "commit": options.commit,
        "limits": "one seed and ten epochs: for pictures, tutorials and diagnostics, not the network's best",
    }
    interop.write_safetensors(trained.FOLDER / f"{name}.safetensors", state)
    (trained.FOLDER / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
