"""Tables read from the networks themselves, against the papers' and against golden counts."""

import functools
import json
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnnjax.models import names
from cnnjax.models.layers import conv
from cnnjax.models.summary import summarise as fresh_summary
from cnnjax.models.summary import summarise_module

GOLDEN = json.loads((Path(__file__).parent / "golden_counts.json").read_text())


summarise = functools.cache(fresh_summary)       # a network is traced once for all tests
DEEP = ("plain110", "resnet101", "resnet110", "resnet152")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in names()])
def test_golden_counts_of_every_network(name):
    assert name in GOLDEN, f"{name} has no golden counts: run scripts/make_golden_counts.py and check its figures"
    summary = summarise(name)
    assert {"parameters": summary.parameters, "multiply_adds": summary.macs} == GOLDEN[name]


@pytest.mark.parametrize(("name", "fields", "macs"), [
    ("lenet5", {}, 326_520), ("lenet5", {"c3": "full", "pooling": "average", "output": "linear"}, 416_520),
    ("alexnet", {}, 724_406_816), ("alexnet", {"groups": 1}, 1_135_256_096)])
def test_multiply_adds(name, fields, macs):
    assert summarise(name, **fields).macs == macs


@pytest.mark.parametrize(("name", "billions"), [
    ("vgg16", 15.470), ("vgg19", 19.632), ("googlenet", 1.583), ("resnet18", 1.814), ("resnet34", 3.664),
    ("resnet50", 3.858), ("resnet101", 7.570), ("resnet152", 11.282)])
def test_multiply_adds_in_billions(name, billions):
    assert abs(GOLDEN[name]["multiply_adds"] / 1e9 - billions) < 6e-4


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 40.55), ("resnet32", 68.86), ("resnet44", 97.17),
                                                ("resnet56", 125.49), ("resnet110", 252.89)])
def test_multiply_adds_in_millions(name, millions):
    assert abs(GOLDEN[name]["multiply_adds"] / 1e6 - millions) < 6e-3


def test_multiply_adds_of_torchvisions_forms():
    bottleneck = summarise("resnet50", stride_in_3x3=True)
    assert abs(bottleneck.macs / 1e9 - 4.089) < 6e-4
    alexnet = summarise("alexnet", image=(224, 224, 3), filters=(64, 192, 384, 256, 256), groups=1, lrn=False,
                        conv1_padding=2)
    assert alexnet.macs == 714_188_480
    googlenet = summarise("googlenet", batch_norm=True, large_kernel=3, pool4=2, aux_pool="4x4")
    assert abs(googlenet.macs / 1e9 - 1.498) < 6e-4


def rows(summary):
    """(kind, output, kernel side, stride, activation) of each layer."""
    return [(layer.kind, layer.output, layer.kernel and layer.kernel[0], layer.stride and layer.stride[0],
             layer.activation) for layer in summary.layers]


def test_table_of_alexnet():
    assert rows(summarise("alexnet")) == [
        ("conv", (55, 55, 96), 11, 4, "ReLU"), ("max pool", (27, 27, 96), 3, 2, ""),
        ("conv", (27, 27, 256), 5, 1, "ReLU"), ("max pool", (13, 13, 256), 3, 2, ""),
        ("conv", (13, 13, 384), 3, 1, "ReLU"), ("conv", (13, 13, 384), 3, 1, "ReLU"),
        ("conv", (13, 13, 256), 3, 1, "ReLU"), ("max pool", (6, 6, 256), 3, 2, ""),
        ("fully connected", (4096,), None, None, "ReLU"), ("fully connected", (4096,), None, None, "ReLU"),
        ("fully connected", (1000,), None, None, "")]
    layers = summarise("alexnet").layers
    assert [layer.norm for layer in layers] == ["LRN", "", "LRN"] + [""] * 8
    assert [layer.groups for layer in layers if layer.kind == "conv"] == [1, 2, 1, 2, 2]
    assert [layer.receptive_field for layer in layers[:9]] == [11, 19, 51, 67, 99, 131, 163, 195, 355]


@pytest.mark.parametrize(("name", "convs"), [("vgg11", (1, 1, 2, 2, 2)), ("vgg13", (2, 2, 2, 2, 2)),
                                             ("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_table_of_vgg(name, convs):
    expected = []
    for count, side, filters in zip(convs, (224, 112, 56, 28, 14), (64, 128, 256, 512, 512), strict=True):
        expected += [("conv", (side, side, filters), 3, 1, "ReLU")] * count
        expected += [("max pool", (side // 2, side // 2, filters), 2, 2, "")]
    expected += [("fully connected", (4096,), None, None, "ReLU")] * 2
    expected += [("fully connected", (1000,), None, None, "")]
    assert rows(summarise(name)) == expected


def test_table_of_lenet():
    summary = summarise("lenet5")
    assert [(layer.name, layer.parameters) for layer in summary.layers] == [
        ("C1", 156), ("S2", 12), ("C3", 1516), ("S4", 32), ("C5", 48120), ("F6", 10164), ("output", 0)]
    assert [layer.receptive_field for layer in summary.layers[:5]] == [5, 6, 14, 16, 32]
    assert {layer.activation for layer in summary.layers[:-1]} == {"tanh"}


def test_googlenet_joins_four_branches_nine_times_and_pools_round_up():
    layers = summarise("googlenet").layers
    assert [layer.output for layer in layers if layer.kind == "concat"] == [
        (28, 28, 256), (28, 28, 480), (14, 14, 512), (14, 14, 512), (14, 14, 512), (14, 14, 528), (14, 14, 832),
        (7, 7, 832), (7, 7, 1024)]
    assert all(len(layer.inputs) == 4 for layer in layers if layer.kind == "concat")
    assert summarise("googlenet", aux=False).training_parameters == 0
    assert summarise("googlenet").training_parameters == 13_378_280 - 6_998_552


def test_shortcuts_are_seen():
    layers = summarise("resnet20", shortcut="A").layers
    adds = [layer for layer in layers if layer.kind == "add"]
    assert len(adds) == 9
    assert all(layer.activation == "ReLU" and len(layer.inputs) == 2 for layer in adds)
    assert not [layer for layer in summarise("plain20").layers if layer.kind == "add"]
    projections = [layer for layer in summarise("resnet20", shortcut="B").layers if "shortcut" in layer.name]
    assert [layer.stride for layer in projections] == [(2, 2), (2, 2)]


class Odd(nn.Module):
    """A network of another make, to show that tables follow the program and not the names."""

    @nn.compact
    def __call__(self, x):
        x = nn.sigmoid(conv(4, 3, 2, name="first")(x))
        x = nn.Conv(4, (3, 3), kernel_dilation=(2, 2), name="dilated")(x)
        x = nn.avg_pool(x, (3, 3), (2, 2))
        return nn.Dense(2, name="last")(x.reshape(len(x), -1))


def test_any_module():
    summary = summarise_module("odd", Odd(), (16, 16, 1))
    assert [(layer.name, layer.kind, layer.output, layer.activation, layer.receptive_field) for layer in summary.layers
            ] == [("first", "conv", (8, 8, 4), "sigmoid", 3), ("dilated", "conv", (8, 8, 4), "", 11),
                  ("average pool", "average pool", (3, 3, 4), "", 15), ("last", "fully connected", (2,), "", 23)]
    assert summary.parameters == 4 * 9 + 4 * 36 + 4 + 36 * 2 + 2
    assert jnp.isfinite(summary.macs)
