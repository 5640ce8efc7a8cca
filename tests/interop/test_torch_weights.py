"""Weights from PyTorch: our networks give what torchvision's give."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from known import FIELDS, known_images, known_state
from pickles import old_file, old_tensors

from cnnjax.errors import UserError
from cnnjax.interop import from_torch, network_from_torch, to_torch, torch_fields, write_safetensors
from cnnjax.models import create, image_shape

GOLDEN = np.load(Path(__file__).parent / "golden" / "torchvision.npz")
CLASSES = {name: GOLDEN[f"{name}/logits"].shape[1] for name in FIELDS}


def torch_state(name, classes, **fields):
    """The state dict of a case: keys and shapes as `to_torch` has them for our network, numbers by key."""
    module = create(name, classes, **torch_fields(name) | fields)
    shape = image_shape(name, getattr(module, "stem", None))
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((1, *shape)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    return known_state({key: value.shape for key, value in to_torch(name, empty, **fields).items()})


@pytest.mark.parametrize("case", FIELDS)
def test_logits_and_batch_statistics_are_torchvisions(case):
    name, fields = FIELDS[case]
    classes = CLASSES[case]
    state = torch_state(name, classes, **fields)
    variables = from_torch(name, state, **fields)
    module = create(name, classes, **torch_fields(name) | fields)
    x = known_images(case)

    @jax.jit
    def run(variables, x):
        logits = module.apply(variables, x)
        if "batch_stats" not in variables:
            return logits, {}
        return logits, module.apply(variables, x, train=True, mutable=["batch_stats"],
                                    rngs={"dropout": jax.random.key(0)})[1]

    logits, new = run(variables, x)
    np.testing.assert_allclose(logits, GOLDEN[f"{case}/logits"], rtol=1e-4, atol=1e-4)
    after = to_torch(name, {"params": variables["params"], **new}, **fields)
    running = [after[key].ravel() for key in sorted(after) if "running" in key]
    running = np.concatenate(running)[::7] if running else np.zeros(0)
    np.testing.assert_allclose(running, GOLDEN[f"{case}/running"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["alexnet", "vgg11_bn", "resnet50", "resnet20_b"])
def test_there_and_back(case, tmp_path):
    name, fields = FIELDS[case]
    state = torch_state(name, CLASSES[case], **fields)
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {f"module.{key}": value for key, value in state.items()})
    back = to_torch(name, from_torch(name, path, **fields), **fields)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_of_pytorch_0_3_load(depth, tmp_path):
    name = f"resnet{depth}"
    state = {key: value for key, value in torch_state(name, 10).items() if not key.endswith("num_batches_tracked")}
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.0.bn2.bias", "linear.bias"} <= {*state}
    assert not any("shortcut" in key for key in state)                          # option A has no parameters
    path = tmp_path / f"{name}.th"
    wrapped = {f"module.{key}": value for key, value in state.items()}
    path.write_bytes(old_file({"state_dict": old_tensors(wrapped), "best_prec1": 91.7}))
    back = to_torch(name, from_torch(name, path))
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model.",
                                    "backbone.", "model.backbone.", "module.encoder.net.", "student."])
def test_prefixes_of_wrapped_networks_are_taken_off(prefix):
    state = torch_state("resnet20", 10)
    averaged = {f"{prefix}{key}": value for key, value in state.items()} | {"n_averaged": np.array(5)}
    back = to_torch("resnet20", from_torch("resnet20", {"net": averaged, "args": object()}))
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize(("case", "prefix"), [("vgg11_bn", "backbone."), ("alexnet", "module.net."),
                                              ("googlenet", "_orig_mod."), ("resnet50", "backbone.")])
def test_prefixes_of_each_kind_of_network(case, prefix):
    name, fields = FIELDS[case]
    state = torch_state(name, CLASSES[case], **fields)
    back = to_torch(name, from_torch(name, {f"{prefix}{key}": value for key, value in state.items()}, **fields),
                    **fields)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_a_backbone_beside_a_head():
    state = torch_state("resnet50", 7, blocks=(1, 1, 1, 1))
    other = {f"head.{key}" if key.startswith("fc.") else f"backbone.{key}": value for key, value in state.items()}
    back = to_torch("resnet50", from_torch("resnet50", other, blocks=(1, 1, 1, 1)), blocks=(1, 1, 1, 1))
    np.testing.assert_array_equal(back["fc.weight"], state["fc.weight"])


def test_two_networks_in_one_state_dict_are_told_apart():
    state = torch_state("resnet20", 10)
    both = state | {f"ema.module.{key}": value for key, value in state.items()}
    with pytest.raises(UserError, match=r"2 networks, whose keys begin with '' and 'ema\.module\.'; keep one"):
        from_torch("resnet20", both)
    with pytest.raises(UserError, match=r"two weights are called fc\.weight, one of them"):
        from_torch("resnet20", state | {"fc.weight": state["linear.weight"]})


@pytest.mark.parametrize("names", [{"linear": "fc", "shortcut": "downsample"}, {}])
def test_projections_of_cifar_resnets_are_told_by_their_weights(names):
    state = torch_state("resnet20", 100, shortcut="B")
    theirs = {}
    for key, value in state.items():
        for ours, other in names.items():
            key = key.replace(ours, other)
        theirs[key] = value
    module, variables = network_from_torch("resnet20", theirs)
    assert (module.shortcut, module.stem, module.num_classes) == ("B", "cifar", 100)
    images = known_images("resnet20")
    expected = jax.jit(create("resnet20", 100, shortcut="B").apply)(from_torch("resnet20", state, shortcut="B"), images)
    np.testing.assert_array_equal(jax.jit(module.apply)(variables, images), expected)


def test_an_imagenet_resnet_made_for_cifar_is_told_by_its_first_kernel():
    fields = {"blocks": (1, 1, 1, 1), "stem": "cifar"}
    state = torch_state("resnet50", 10, **fields)
    module, variables = network_from_torch("resnet50", state, blocks=(1, 1, 1, 1))
    assert (module.stem, module.shortcut, module.stride_in_3x3) == ("cifar", "B", True)
    assert jax.eval_shape(module.apply, variables, known_images("resnet50")).shape == (4, 10)


def test_the_fully_connected_layers_of_a_cifar_vgg_are_told_by_their_weights():
    fields = {"width": 4, "hidden": 24, "pool_to": 1}
    state = torch_state("vgg11_bn", 10, **fields)
    module, variables = network_from_torch("vgg11_bn", state, width=4)
    assert (module.hidden, module.pool_to) == (24, 1)
    back = to_torch("vgg11_bn", variables, **fields)
    np.testing.assert_array_equal(back["classifier.0.weight"], state["classifier.0.weight"])


def test_googlenet_without_heads():
    state = {key: value for key, value in torch_state("googlenet", 7).items() if not key.startswith("aux")}
    variables = from_torch("googlenet", state)
    assert sum(x.size for x in flatten_dict(variables["params"]).values()) == 6_624_904 - 993 * 1025


def test_timms_vgg_has_its_dense_layers_as_convolutions():
    state = torch_state("vgg11", 10, width=4, hidden=24)
    theirs = {}
    for key, value in state.items():
        for ours, other in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"),
                            ("classifier.6", "head.fc")):
            key = key.replace(ours, other)
        if key == "pre_logits.fc1.weight":
            value = value.reshape(24, 32, 7, 7)
        theirs[key] = value[..., None, None] if key == "pre_logits.fc2.weight" else value
    back = to_torch("vgg11", from_torch("vgg11", theirs, width=4), width=4, hidden=24)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_wrong_weights_are_named_in_one_line():
    state = torch_state("resnet20", 10)
    del state["layer1.0.conv1.weight"]
    state["layer2.0.conv2.weight"] = np.zeros((1, 2), np.float32)
    state["extra"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        from_torch("resnet20", state)
    assert str(error.value) == (
        "these are not the weights of resnet20: missing layer1.0.conv1.weight; misshapen layer2.0.conv2.weight of "
        "shape (1, 2), expected (32, 32, 3, 3); extra extra")
    with pytest.raises(UserError, match=r"missing bn1.running_mean, bn1.running_var, .* and 99 more"):
        from_torch("resnet18", {"a": np.zeros(1)})
    with pytest.raises(UserError, match="lenet5 has no PyTorch weights"):
        from_torch("lenet5", {"a": np.zeros(1)})


@pytest.mark.parametrize(("name", "fields"), [("resnet20", {}), ("vgg11", {"width": 4, "hidden": 24})])
def test_networks_of_grey_images_go_there_and_back(name, fields):
    """The channels of the image are read from the first kernel."""
    side = image_shape(name)[0]
    shapes = jax.eval_shape(create(name, 3, **fields).init, jax.random.key(0), jnp.zeros((1, side, side, 1)))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
    state = to_torch(name, variables, **fields)
    back = from_torch(name, state, **fields)
    assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, variables)
