"""The networks by name. One file a paper; `create("resnet20", num_classes=10)` gives a Flax module.

Every network is called as `module.apply(variables, images, train=False)` with images `(N, H, W, C)` and gives logits
`(N, num_classes)` in float32; with `features=True` it gives the dict of its stages' outputs by name instead, for
detectors and pictures. GoogLeNet in training gives `(logits, aux1, aux2)`.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import flax.linen as nn

from cnnjax.errors import UserError
from cnnjax.models.alexnet import AlexNet
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.models.lenet import LeNet5
from cnnjax.models.resnet import IMAGENET_BLOCKS, ResNet, cifar_blocks
from cnnjax.models.vgg import CONVS, VGG

_REGISTRY: dict[str, Callable[..., nn.Module]] = {"lenet5": LeNet5, "alexnet": AlexNet, "googlenet": GoogLeNet}

for _depth, _convs in CONVS.items():
    _REGISTRY[f"vgg{_depth}"] = partial(VGG, convs=_convs)
    _REGISTRY[f"vgg{_depth}_bn"] = partial(VGG, convs=_convs, batch_norm=True)
for _depth in (20, 32, 44, 56, 110):
    _REGISTRY[f"resnet{_depth}"] = partial(ResNet, blocks=cifar_blocks(_depth), width=16)
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
    """The fields of a network and their defaults, as `create(name)` would have them. Raises UserError as `create`
    does."""
    module = create(name)
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def create(name: str, num_classes: int = 10, **fields: Any) -> nn.Module:
    """A network by name, any of its module's fields overridden.

    Raises UserError for an unknown name or field, or a value that a field does not know, with the nearest known one.
    """
    make = _REGISTRY.get(name)
    if make is None:
        raise UserError(f"unknown network {name!r}{_suggest(name, _REGISTRY)}")
    module_class = make.func if isinstance(make, partial) else make
    known = {f.name for f in dataclasses.fields(module_class)} - {"parent", "name"}           # type: ignore[arg-type]
    hints = get_type_hints(module_class)
    for field, value in fields.items():
        if field not in known:
            raise UserError(f"{name} has no field {field!r}{_suggest(field, known)}")
        if get_origin(hints[field]) is Literal and value not in get_args(hints[field]):
            raise UserError(f"{name}: unknown {field} {value!r}{_suggest(value, get_args(hints[field]))}")
    return make(num_classes=num_classes, **fields)


def image_shape(name: str, stem: str | None = None) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network's paper feeds it; 32x32 colour for `stem="cifar"`.

    Raises UserError for an unknown name.
    """
    default = fields(name)
    if name == "lenet5":
        return (32, 32, 1)
    if (stem or default.get("stem")) == "cifar":
        return (32, 32, 3)
    return (227, 227, 3) if name == "alexnet" else (224, 224, 3)


def _suggest(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
