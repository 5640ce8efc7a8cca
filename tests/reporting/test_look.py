"""Looking into a network: Grad-CAM against a network whose answer is known, kernels, feature maps, pictures."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.errors import UserError
from cnnjax.models import create
from cnnjax.models.sow_feature import sow_feature
from cnnjax.reporting.look import first_kernel, grad_cam, run_look, stages, tile


class Toy(nn.Module):
    """Rectified channels, their means, and one class a channel: Grad-CAM of class c is channel c itself."""

    @nn.compact
    def __call__(self, x, *, train=False, features=False):
        z = sow_feature(self, "z", nn.relu(x))
        a = sow_feature(self, "a", z * 2)
        return {"z": z, "a": a} if features else a.mean((1, 2))


def test_grad_cam_of_a_network_whose_channels_are_its_classes():
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    for labels in ([0, 1, 1], None):
        logits, heat = grad_cam(Toy(), {}, x, "a", labels)
        chosen = logits.argmax(-1) if labels is None else labels
        for i, label in enumerate(chosen):
            channel = np.maximum(x[i, ..., label], 0)
            np.testing.assert_allclose(heat[i], channel / channel.max(), rtol=1e-5)
        np.testing.assert_allclose(logits, 2 * np.maximum(x, 0).mean((1, 2)), rtol=1e-5)


def test_grad_cam_where_nothing_speaks_for_the_class():
    x = -np.ones((1, 2, 2, 2), np.float32)
    assert not grad_cam(Toy(), {}, x, "z", [0])[1].any()


def test_tile():
    sheet = tile(np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 2, 2, 1)), 2)
    assert sheet.shape == (5, 5, 1)
    assert (sheet[:2, 3:] == 1).all()
    assert (sheet[3:, :2] == 2).all()
    assert (sheet[2] == 1).all()


@pytest.mark.parametrize(("name", "shape"), [
    ("lenet5", (5, 5, 1, 6)), ("alexnet", (11, 11, 3, 96)), ("vgg11", (3, 3, 3, 64)), ("googlenet", (7, 7, 3, 64)),
    ("resnet18", (7, 7, 3, 64)), ("resnet20", (3, 3, 3, 16))])
def test_the_first_kernel_of_each_network(name, shape):
    size = {"lenet5": 32, "resnet20": 32}.get(name, 224)
    x = np.zeros((1, size, size, shape[2]), np.float32)
    params = jax.eval_shape(lambda x: create(name).init(jax.random.key(0), x), x)["params"]
    assert first_kernel(jax.tree.map(lambda leaf: np.broadcast_to(0, leaf.shape), params)).shape == shape


def test_pictures_of_an_alexnet(tmp_path):
    module = create("alexnet", 3, stem="cifar", filters=(8, 8, 8, 8, 8), hidden=8)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    inputs = (images / 255).astype(np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), inputs)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    assert list(stages(module, variables, inputs)) == ["conv1", "conv2", "conv3", "conv4", "conv5", "pool5"]
    paths = run_look(module, variables, tmp_path / "figures", images=images, inputs=inputs, classes=("a", "b", "c"))
    assert [path.name for path in paths] == ["kernels.png", "features.png", "grad_cam.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path))
        assert pixels.std() > 5                                                 # something was drawn
    with pytest.raises(UserError, match="--stage conv6: no such map; did you mean"):
        run_look(module, variables, tmp_path, images=images, inputs=inputs, classes="abc", stage="conv6")
