"""The networks by name. One file a paper; `create("resnet20", num_classes=10)` gives a Flax module.

Every network is called as `module.apply(variables, images, train=False)` with images `(N, H, W, C)` and gives logits
`(N, num_classes)` in float32; with `features=True` it gives the dict of its stages' outputs by name instead, for
detectors and pictures.
"""

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from cnnjax.models.resnet import IMAGENET_BLOCKS, ResNet, cifar_blocks

_REGISTRY: dict[str, Callable[..., nn.Module]] = {}

for _depth in (20, 32, 44, 56, 110):
    _REGISTRY[f"resnet{_depth}"] = partial(ResNet, blocks=cifar_blocks(_depth), width=16)
for _depth in (20, 32, 44, 56):
    _REGISTRY[f"plain{_depth}"] = partial(ResNet, blocks=cifar_blocks(_depth), width=16, residual=False)
for _depth, _blocks in IMAGENET_BLOCKS.items():
    _REGISTRY[f"resnet{_depth}"] = partial(ResNet, blocks=_blocks, width=64, stem="imagenet", shortcut="B",
                                           bottleneck=_depth >= 50)
for _depth in (18, 34):
    _REGISTRY[f"plain{_depth}"] = partial(ResNet, blocks=IMAGENET_BLOCKS[_depth], width=64, stem="imagenet",
                                          residual=False)


def names() -> list[str]:
    """The names that `create` knows, sorted."""
    return sorted(_REGISTRY)


def fields(name: str) -> dict[str, Any]:
    """The fields of a network and their defaults, as `create(name)` would have them. Raises ValueError as `create` does."""
    module = create(name)
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def create(name: str, num_classes: int = 10, **fields: Any) -> nn.Module:
    """A network by name, any of its module's fields overridden.

    Raises ValueError for an unknown name or field, with the nearest known one.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown network {name!r}{_suggest(name, _REGISTRY)}")
    make = _REGISTRY[name]
    known = {f.name for f in dataclasses.fields(getattr(make, "func", make))} - {"parent", "name"}
    for field in fields:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}{_suggest(field, known)}")
    return make(num_classes=num_classes, **fields)


def _suggest(word: str, known) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
