"""Against torchvision itself, at full size, where it is installed (extra `torch`).

Slow: last run with torch 2.14 and torchvision 0.29, all passed.
"""

import jax
import numpy as np
import pytest

from cnnjax.interop import from_torch, read_state, to_torch, torch_fields, write_safetensors
from cnnjax.models import create

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.slow

NAMES = ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "googlenet",
         "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_batch_statistics(name):
    torch.manual_seed(0)
    extra = {"init_weights": True} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(weights=None, **extra)
    x = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():                       # a step first, for statistics other than 0 and 1
        theirs.train()(x_torch)
    before = theirs.state_dict()
    variables = from_torch(name, before)
    ours = create(name, 1000, **torch_fields(name))
    with torch.no_grad():
        expected = theirs.eval()(x_torch).numpy()
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(jax.jit(ours.apply)(variables, x), expected, rtol=1e-4, atol=1e-4 * scale)

    if "batch_stats" in variables:
        @jax.jit
        def step(variables, x):
            return ours.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})[1]

        new = to_torch(name, {"params": variables["params"], **step(variables, x)})
        with torch.no_grad():
            theirs.train()(x_torch)
        for key, value in theirs.state_dict().items():
            if "running" in key:
                np.testing.assert_allclose(new[key], value.numpy(), rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch(tmp_path, legacy):
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    for key, value in read_state(tmp_path / "x.pth").items():
        np.testing.assert_array_equal(value, model.state_dict()[key].numpy())
    variables = from_torch("resnet18", tmp_path / "x.pth")
    write_safetensors(tmp_path / "x.safetensors", to_torch("resnet18", variables))
    again = {key: torch.from_numpy(value) for key, value in read_state(tmp_path / "x.safetensors").items()}
    model.load_state_dict(again)                                                # strict: every key, no other
