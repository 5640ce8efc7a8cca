"""Variables of our networks from PyTorch state dicts, and back."""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax.errors import UserError
from cnnjax.interop.files import read_state, some, state_in
from cnnjax.models import create, image_shape
from cnnjax.models.alexnet import AlexNet
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.models.resnet import ResNet
from cnnjax.models.vgg import VGG

_ALEXNET = {"conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8",
            "conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}

_BRANCHES = {"one": "branch1", "three_reduce": "branch2.0", "three": "branch2.1", "five_reduce": "branch3.0",
             "five": "branch3.1", "pool": "branch4.1"}

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

_LANDMARKS = {AlexNet: "features.0.weight", VGG: "features.0.weight", GoogLeNet: "inception3a.branch1.conv.weight",
              ResNet: "layer1.0.conv1.weight"}
"""A key that each network has: what stands before it is the prefix of the network in the file."""

_OTHER_NAMES: dict[type[nn.Module], dict[str, str]] = {
    ResNet: {r"^(linear|head\.fc)\.": "fc.", r"\.shortcut\.": ".downsample."},
    VGG: {r"^pre_logits\.fc1\.": "classifier.0.", r"^pre_logits\.fc2\.": "classifier.3.",
          r"^head\.fc\.": "classifier.6."}}
"""Layers as CIFAR repositories, mmpretrain and timm call them, and as torchvision does."""

COUNTERS = ("num_batches_tracked", "n_averaged")
"""Numbers that PyTorch counts beside weights: of batch norm, of an averaged model."""


def torch_fields(name: str) -> dict[str, Any]:
    """The fields that make `create(name, **fields)` the network that torchvision means by that name.

    Its AlexNet is the one-column network of 2014, its GoogLeNet has batch norm, its bottlenecks stride in the 3x3, and
    its VGG and AlexNet average their last map to a fixed grid. CIFAR networks need none. Raises UserError for a name
    that `create` does not know.
    """
    module = create(name)
    if isinstance(module, AlexNet):
        return {"filters": (64, 192, 384, 256, 256), "groups": 1, "lrn": False, "conv1_padding": 2, "pool_to": 6}
    if isinstance(module, VGG):
        return {"pool_to": 7}
    if isinstance(module, GoogLeNet):
        return {"batch_norm": True, "large_kernel": 3, "pool4": 2, "aux_pool": "4x4"}
    return {"stride_in_3x3": True} if isinstance(module, ResNet) and module.bottleneck else {}


def network_from_torch(name: str, source: Mapping[str, Any] | str | Path,
                       **fields: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network `create(name, num_classes, **torch_fields(name), **fields)` and its variables, from a PyTorch state
    dict or its file.

    Knows torchvision's alexnet, vgg*, vgg*_bn, googlenet and resnet*, timm's where the network is the same, and the
    ResNets and VGGs of CIFAR repositories: keys as torchvision's, or with the classifier named `linear` and projections
    named `shortcut` (their option A pads channels on both sides, as ours). All keys may begin with one prefix, as
    wrapped networks' do: `module.`, `backbone.`, `model._orig_mod.` or any other. `source` holds torch tensors or
    arrays, alone or nested as `state_in` tells, or is a path for `read_state`.

    What `fields` does not tell is read from the weights: the number of classes, a ResNet's stem and projections
    (`shortcut="B"`), the fully connected layers of a VGG, whether GoogLeNet has its heads. Images are to be
    normalised as for PyTorch; torchvision's pretrained GoogLeNet was trained on mean 0.5, deviation 0.5.

    Variables are `{"params": ..., "batch_stats": ...}` of float32 arrays. Raises UserError that names missing, extra
    and misshapen keys.
    """
    where = f"{source}: " if isinstance(source, str | Path) else ""
    module = create(name, **torch_fields(name) | fields)
    if type(module) not in _LANDMARKS:
        raise UserError(_no_form(name))
    state = plain_keys(read_state(source) if isinstance(source, str | Path) else state_in(source, name),
                       _LANDMARKS[type(module)], _OTHER_NAMES.get(type(module), {}), where)
    module = module.clone(**{key: value for key, value in _told_by(state, module).items() if key not in fields})
    height, width, channels = image_shape(name, getattr(module, "stem", None))
    first = state.get({ResNet: "conv1.weight", GoogLeNet: "conv1.conv.weight"}.get(type(module), "features.0.weight"))
    shape = (height, width, channels if first is None or first.ndim != 4 else first.shape[1])      # grey images: 1
    template = flatten_dict(jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((1, *shape))))

    return module, fill(template, state, lambda path: _key(module, path, cifar=False),
                        lambda path: _window_channels(module, path), f"{where}these are not the weights of {name}")


def fill(template: Mapping[tuple[str, ...], Any], state: Mapping[str, np.ndarray],
         key_of: Callable[[tuple[str, ...]], str], channels_of: Callable[[tuple[str, ...]], int | None],
         problem: str) -> dict[str, Any]:
    """Variables of the shapes of a template, from a state dict: a leaf by its path is the array of the key there.

    `channels_of` are those of the map that a fully connected layer flattens, or None. Raises UserError that begins with
    `problem` and names missing, extra and misshapen keys.
    """
    arrays, missing, misshapen, extra = {}, [], [], dict(state)
    for path, leaf in template.items():
        key, channels = key_of(path), channels_of(path)
        expected = jax.eval_shape(lambda x, channels=channels: layout_to_torch(x, channels), leaf).shape
        array = extra.pop(key, None)
        if array is None:
            missing.append(key)
        elif array.shape != expected:
            misshapen.append(f"{key} of shape {array.shape}, expected {expected}")
        else:
            arrays[path] = jnp.array(_layout_from_torch(array, channels), jnp.float32)
    problems = [f"{what} {some(keys)}" for what, keys in
                (("missing", missing), ("misshapen", misshapen), ("extra", [*extra])) if keys]
    if problems:
        raise UserError(f"{problem}: {'; '.join(problems)}")
    return unflatten_dict(arrays)


def plain_keys(state: Mapping[str, Any], landmark: str, other_names: Mapping[str, str],
               where: str) -> dict[str, np.ndarray]:
    """The arrays by torchvision's keys: without what stands before all of a wrapped network's, and without counters.

    `landmark` is a key that the network has, `other_names` are patterns of other keys and what they are in torchvision.
    Raises UserError if the weights of two networks of this kind are among them.
    """
    compiled = {key: key.replace("_orig_mod.", "") for key in state if not key.endswith(COUNTERS)}
    prefixes = {key.removesuffix(landmark) for key in compiled.values() if f".{key}".endswith(f".{landmark}")}
    if len(prefixes) > 1:
        raise UserError(f"{where}weights of {len(prefixes)} networks, whose keys begin with "
                        f"{' and '.join(map(repr, sorted(prefixes)))}; keep one network's in the file")
    prefix = next(iter(prefixes), "")
    plain: dict[str, np.ndarray] = {}
    for key, bare in compiled.items():
        bare = bare.removeprefix(prefix)
        for pattern, name in other_names.items():
            bare = re.sub(pattern, name, bare)
        if bare in plain:
            raise UserError(f"{where}two weights are called {bare}, one of them {key}; keep one network's in the file")
        array = _array(state[key])
        dense = bare.startswith("classifier.") and array.ndim == 4      # timm's VGG has them as convolutions
        plain[bare] = array.reshape(len(array), -1) if dense else array
    return plain


def _told_by(state: Mapping[str, np.ndarray], module: nn.Module) -> dict[str, Any]:
    """The fields of the network that its weights tell."""
    last = "fc8" if isinstance(module, VGG | AlexNet) else "classifier"
    bias = state.get(_key(module, ("params", last, "bias"), cifar=False))
    fields: dict[str, Any] = {} if bias is None else {"num_classes": bias.size}
    if isinstance(module, GoogLeNet):
        fields["aux"] = any(key.startswith("aux1.") for key in state)
    elif isinstance(module, VGG) and getattr(state.get("classifier.0.weight"), "ndim", 0) == 2:
        hidden, inputs = state["classifier.0.weight"].shape
        fields |= {"hidden": hidden, "pool_to": isqrt(inputs // _last_filters(module))}
    elif isinstance(module, ResNet):
        kernel = state.get("conv1.weight")
        if kernel is not None and kernel.shape[2:] == (3, 3):
            fields["stem"] = "cifar"
        if module.residual and module.shortcut == "A" and any(".downsample." in key for key in state):
            fields["shortcut"] = "B"
    return fields


def network_to_torch(name: str, variables: Mapping[str, Any], **fields: Any) -> dict[str, np.ndarray]:
    """The PyTorch state dict, as numpy arrays by key, of variables for `create(name, **torch_fields(name), **fields)`.

    The inverse of `network_from_torch`: torchvision's keys, or those of CIFAR ResNets for `stem="cifar"`. Raises
    UserError for a network without a PyTorch form.
    """
    return state_dict(create(name, **torch_fields(name) | fields), variables)


def state_dict(module: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`to_torch` of a network at hand."""
    cifar = getattr(module, "stem", None) == "cifar"
    state = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        key = _key(module, path, cifar)
        state[key] = np.asarray(layout_to_torch(np.asarray(leaf), _window_channels(module, path)))
        if path[-1] == "var":                               # PyTorch counts the steps behind the running statistics
            state[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def _key(module: nn.Module, path: tuple[str, ...], cifar: bool) -> str:
    """PyTorch's key of a leaf, such as ("params", "stage1_block1", "conv1", "kernel") to "layer1.0.conv1.weight"."""
    layers, leaf = path[1:-1], LEAVES.get(path[-1], path[-1])
    if isinstance(module, AlexNet):
        names = [_ALEXNET[layers[0]]]
    elif isinstance(module, VGG):
        names = [_vgg_layers(module)[layers[0]]]
    elif isinstance(module, GoogLeNet):
        names = [{"conv2_reduce": "conv2", "conv2": "conv3", "classifier": "fc"}.get(layers[0], layers[0])]
        for layer in layers[1:]:
            names.append("bn" if layer == "norm" else _BRANCHES.get(layer, layer))
    elif isinstance(module, ResNet):
        short = "shortcut" if cifar else "downsample"
        names = []
        for layer in layers:
            layer = re.sub(r"stage(\d+)_block(\d+)", lambda match: f"layer{match[1]}.{int(match[2]) - 1}", layer)
            layer = {"conv_shortcut": f"{short}.0", "norm_shortcut": f"{short}.1",
                     "classifier": "linear" if cifar else "fc"}.get(layer, layer)
            names.append(layer.replace("norm", "bn"))
    else:
        raise UserError(_no_form(type(module).__name__.lower()))
    return ".".join([*names, leaf])


def _no_form(network: str) -> str:
    return (f"{network} has no PyTorch weights to exchange; known are torchvision's alexnet, vgg, googlenet and "
            "resnet, and CIFAR ResNets")


def _vgg_layers(module: VGG) -> dict[str, str]:
    """torchvision numbers VGG's layers in sequence, rectifiers and pools included."""
    numbers, number = {}, 0
    for s, count in enumerate(module.convs, 1):
        for c in range(1, count + 1):
            numbers[f"conv{s}_{c}"] = f"features.{number}"
            numbers[f"norm{s}_{c}"] = f"features.{number + 1}"
            number += 3 if module.batch_norm else 2
        number += 1
    return numbers | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}


def _window_channels(module: nn.Module, path: tuple[str, ...]) -> int | None:
    """Channels of the map that a fully connected layer flattens; None where its input is flat already."""
    if path[1] == "fc6" and isinstance(module, AlexNet):
        return module.filters[-1]
    if path[1] == "fc6" and isinstance(module, VGG):
        return _last_filters(module)
    return 128 if path[2:] == ("fc1", "kernel") else None                       # GoogLeNet's auxiliary heads


def _last_filters(module: VGG) -> int:
    return module.width * min(2 ** (len(module.convs) - 1), 8)


def layout_to_torch(array: Any, channels: int | None) -> Any:
    """(h, w, in, out) to (out, in, h, w); (h * w * in, out) to (out, in * h * w), `in` given by `channels`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2:
        rows, out = array.shape
        channels = channels or rows
        side = isqrt(rows // channels)
        return array.reshape(side, side, channels, out).transpose(3, 2, 0, 1).reshape(out, rows)
    return array


def _layout_from_torch(array: np.ndarray, channels: int | None) -> np.ndarray:
    """The inverse of `layout_to_torch`."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        out, rows = array.shape
        channels = channels or rows
        side = isqrt(rows // channels)
        return array.reshape(out, channels, side, side).transpose(2, 3, 1, 0).reshape(rows, out)
    return array


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)
