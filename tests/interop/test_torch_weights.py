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
from cnnjax.interop import from_torch, to_torch, torch_fields, write_safetensors
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


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."])
def test_prefixes_of_wrapped_networks_are_taken_off(prefix):
    state = torch_state("resnet20", 10)
    averaged = {f"{prefix}{key}": value for key, value in state.items()} | {"n_averaged": np.array(5)}
    back = to_torch("resnet20", from_torch("resnet20", {"net": averaged, "args": object()}))
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_two_networks_in_one_state_dict_are_told_apart():
    state = {"bn1.bias": np.zeros(16), "module.bn1.bias": np.ones(16)}
    with pytest.raises(UserError, match=r"two weights are called bn1\.bias, one of them module\.bn1\.bias"):
        from_torch("resnet20", state)


def test_googlenet_without_heads():
    state = {key: value for key, value in torch_state("googlenet", 7).items() if not key.startswith("aux")}
    variables = from_torch("googlenet", state)
    assert sum(x.size for x in flatten_dict(variables["params"]).values()) == 6_624_904 - 993 * 1025


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
