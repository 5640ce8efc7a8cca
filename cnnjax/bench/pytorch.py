"""PyTorch's side of `cnnjax bench`: a script for an interpreter that has torch. Of ours it imports `answer.py` alone.

`python -P pytorch.py SPEC` answers every line on standard input with the seconds of one step, or of one batch of a
DataLoader where SPEC has a folder: see `networks.py` and `input.py`.
"""

import json
import os
import sys

import torch
import torch.nn.functional as F
from torch import nn

sys.path.append(os.path.dirname(__file__))      # last, since other files here have names that torch may import
from answer import answer


class Block(nn.Module):
    """The basic block of the CIFAR nets; its shortcut subsamples and pads channels (option A)."""

    def __init__(self, channels: int, filters: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.stride, self.residual = stride, residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.residual:
            if x.shape != y.shape:
                x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = y + x
        return F.relu(y, inplace=True)


def cifar_net(depth: int, residual: bool, classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for filters in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(Block(channels, filters, 1 if filters == channels else 2, residual))
            channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def create(name: str, classes: int) -> nn.Module:
    """A network of our registry. Raises ValueError where neither this file nor torchvision has it."""
    kind, digits = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")):]
    if kind in ("resnet", "plain") and int(digits) in (20, 32, 44, 56, 110):
        return cifar_net(int(digits), kind == "resnet", classes)
    import torchvision
    fields = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **fields)


@torch.no_grad()
def frozen_norms(model: nn.Module) -> nn.Module:
    """The network over frozen batch norm without an epsilon, as torchvision's weights of COCO have it."""
    from torchvision.ops import FrozenBatchNorm2d
    for module in list(model.modules()):
        for child, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, eps=0.0)
                frozen.load_state_dict(norm.state_dict())
                setattr(module, child, frozen)
    return model


def main(spec: dict) -> None:
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    net = create(spec["network"], spec["classes"]).to(memory_format=torch.channels_last)
    height, width, channels = spec["image"]
    x = torch.randn(spec["batch"], channels, height, width).to(memory_format=torch.channels_last)
    labels = torch.randint(0, spec["classes"], (spec["batch"],))
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9, weight_decay=1e-4)

    def step() -> None:
        if not spec["train"]:
            with torch.inference_mode():
                net(x)
            return
        optimizer.zero_grad(set_to_none=True)
        logits = net(x)
        heads = logits if isinstance(logits, tuple) else (logits,)           # GoogLeNet's auxiliary ones by 0.3
        sum((1 if i == 0 else 0.3) * F.cross_entropy(h, labels) for i, h in enumerate(heads)).backward()
        optimizer.step()

    net.train(spec["train"])
    step()
    answer(step)


def feed(spec: dict) -> None:
    """A DataLoader with one worker over a folder of images, as torchvision's own recipes train with."""
    torch.set_num_threads(1)
    from torchvision import datasets, transforms
    change = transforms.Compose([transforms.RandomResizedCrop(spec["size"]), transforms.RandomHorizontalFlip(),
                                 transforms.ToTensor(), transforms.Normalize(spec["mean"], spec["std"])])
    images = datasets.ImageFolder(os.path.join(spec["folder"], "train"), change)
    loader = torch.utils.data.DataLoader(images, spec["batch"], shuffle=True, num_workers=1, drop_last=True,
                                         persistent_workers=True)

    def endless():
        while True:
            yield from loader

    batches = endless()

    def take(count: int) -> None:
        for _ in range(count):
            next(batches)

    take(spec["ahead"])
    answer(lambda: take(spec["batches"]), before=lambda: take(spec["ahead"]), steps=spec["batches"])


if __name__ == "__main__":
    SPEC = json.loads(sys.argv[1])
    feed(SPEC) if "folder" in SPEC else main(SPEC)
