"""Makes tests/interop/golden/predict.npz: torchvision's top-5 of a ResNet-50 with random weights on images of several
shapes, by its own preprocessing. Needs the extra `torch`.

    python scripts/make_golden_predict.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

TESTS = Path(__file__).parents[1] / "tests" / "interop"
sys.path.insert(0, str(TESTS))
from photographs import photographs, resnet50_state  # noqa: E402


def main() -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    state = resnet50_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = photographs(Path(folder))
        logits = torch.cat([model(transform(Image.open(path).convert("RGB"))[None]) for path in paths])
    bias = -logits.mean(0)
    probabilities, classes = (logits + bias).softmax(1).topk(5)
    path = TESTS / "golden" / "predict.npz"
    np.savez_compressed(path, files=[path.name for path in paths], bias=bias.numpy(), classes=classes.numpy(),
                        probabilities=probabilities.numpy())
    print(path, path.stat().st_size, "bytes")
    print(probabilities.numpy().round(4))


if __name__ == "__main__":
    main()
