"""Makes tests/interop/golden/: files as PyTorch saves them, and what torchvision's networks give for known weights.

Needs the extra `torch`. Weights come from numpy by key (`tests/interop/known.py`), so only outputs are stored: logits
of an evaluation, and running means and variances after one training step. VGG and AlexNet are narrowed, ResNet-50 and
the like shortened, with torchvision's own classes, so that the tests stay quick.

    python scripts/make_golden_models.py
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

TESTS = Path(__file__).parents[1] / "tests" / "interop"
sys.path.insert(0, str(TESTS))
from known import known_images, known_state  # noqa: E402


class CifarBlock(nn.Module):
    """A basic block with option A's shortcut, or B's, keyed as public CIFAR repositories key it."""

    def __init__(self, channels: int, filters: int, stride: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.new = stride, filters - channels
        self.shortcut = None
        if option == "B" and self.new:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.new:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """The CIFAR network of He et al., section 4.2."""

    def __init__(self, blocks: int, option: str = "A"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for stage, filters in enumerate((16, 32, 64), 1):
            layers = []
            for block in range(blocks):
                layers.append(CifarBlock(channels, filters, 2 if stage > 1 and block == 0 else 1, option))
                channels = filters
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def narrow_vgg(batch_norm: bool) -> nn.Module:
    """torchvision's VGG of depth 11 with 4 to 32 filters and 24 hidden units."""
    layers = tv.vgg.make_layers([4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"], batch_norm)
    with torch.device("meta"):
        model = tv.VGG(layers, num_classes=7)
    model.features = layers
    for i, (inputs, outputs) in zip((0, 3, 6), ((32 * 49, 24), (24, 24), (24, 7)), strict=True):
        model.classifier[i] = nn.Linear(inputs, outputs)
    return model


def narrow_alexnet() -> nn.Module:
    """torchvision's AlexNet with 8 to 24 filters and 24 hidden units."""
    with torch.device("meta"):
        model = tv.AlexNet(num_classes=7)
    for i, (inputs, outputs, kernel, stride, padding) in {
            0: (3, 8, 11, 4, 2), 3: (8, 16, 5, 1, 2), 6: (16, 24, 3, 1, 1), 8: (24, 16, 3, 1, 1),
            10: (16, 16, 3, 1, 1)}.items():
        model.features[i] = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    for i, (inputs, outputs) in {1: (16 * 36, 24), 4: (24, 24), 6: (24, 7)}.items():
        model.classifier[i] = nn.Linear(inputs, outputs)
    return model


def models() -> dict[str, nn.Module]:
    """The networks by the names of `tests/interop/known.py`."""
    return {
        "alexnet": narrow_alexnet(),
        "vgg11": narrow_vgg(False),
        "vgg11_bn": narrow_vgg(True),
        "googlenet": tv.GoogLeNet(num_classes=7, aux_logits=True, init_weights=False),
        "resnet18": tv.ResNet(tv.resnet.BasicBlock, [2, 1, 1, 1], num_classes=7),
        "resnet50": tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], num_classes=7),
        "resnet20": CifarResNet(3),
        "resnet20_b": CifarResNet(1, "B"),
    }


def fill(model: nn.Module) -> None:
    """Puts the known weights into a model."""
    state = known_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})


def outputs(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Logits in evaluation mode; then the running statistics after a step of training, one after another by key.

    The gradient plays no part: a forward pass in training mode moves them.
    """
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        logits = model.eval()(x).numpy()
        model.train()(x)
    state = model.state_dict()
    running = [state[key].numpy().ravel() for key in sorted(state) if "running" in key]
    return {"logits": logits, "running": np.concatenate(running) if running else np.zeros(0, np.float32)}


def save_files(folder: Path) -> None:
    """Small state dicts in both of PyTorch's layouts: several dtypes, views of one storage, a wrapped checkpoint."""
    base = torch.arange(12, dtype=torch.float32)
    state = OrderedDict(weight=base.reshape(3, 4).T, tail=base[8:], half=base.half(), brain=base.bfloat16(),
                        steps=torch.tensor(7), flags=base > 5, parameter=nn.Parameter(base[:2].clone()),
                        empty=torch.zeros(0, 3))
    torch.save(state, folder / "zip.pth")
    torch.save({"epoch": 3, "best": 0.5, "state_dict": state}, folder / "legacy.pth",
               _use_new_zipfile_serialization=False)


def main() -> None:
    """Writes the golden files. Running statistics are thinned to every seventh, which touches every layer."""
    golden = {}
    for name, model in models().items():
        fill(model)
        made = outputs(model, known_images(name))
        golden[f"{name}/logits"] = made["logits"]
        golden[f"{name}/running"] = made["running"][::7]
    path = TESTS / "golden" / "torchvision.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **golden)
    save_files(path.parent)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
