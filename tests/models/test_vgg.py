"""VGG: counts, sizes, any image size, and beginning a deep net from a shallow one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import create
from cnnjax.models.vgg import grow
from tests.models.conftest import stage_shapes

SMALL = {"width": 2, "hidden": 8, "num_classes": 3}


@pytest.mark.parametrize(("name", "count"), [
    ("vgg11", 132_863_336), ("vgg13", 133_047_848), ("vgg16", 138_357_544), ("vgg19", 143_667_240),
    ("vgg16_bn", 138_365_992), ("vgg19_bn", 143_678_248)])
def test_parameters(name, count):
    shapes = jax.eval_shape(create(name, 1000).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
    assert shapes["params"]["fc6"]["kernel"].shape == (7 * 7 * 512, 4096)


def test_stage_sizes():
    assert stage_shapes(create("vgg16"), 224) == {
        "conv1": (224, 224, 64), "conv2": (112, 112, 128), "conv3": (56, 56, 256), "conv4": (28, 28, 512),
        "conv5": (14, 14, 512), "pool5": (7, 7, 512)}


def test_larger_images_average_the_scores_of_their_windows(random_variables):
    module = create("vgg11", **SMALL)
    x = np.random.default_rng(1).normal(size=(2, 32, 64, 3))
    variables = random_variables(module, (1, 32, 32, 3))
    params = variables["params"]
    assert params["fc6"]["kernel"].shape == (16, 8)                            # a map of 1x1

    @jax.jit
    def run(x):
        return module.apply(variables, x, features=True)["pool5"], module.apply(variables, x)

    pool5, logits = run(x)                                                     # (2, 1, 2, 16)

    def classify(window):
        for name in ("fc6", "fc7"):
            window = jax.nn.relu(window @ params[name]["kernel"] + params[name]["bias"])
        return window @ params["fc8"]["kernel"] + params["fc8"]["bias"]

    expected = (classify(pool5[:, 0, 0]) + classify(pool5[:, 0, 1])) / 2
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_grow_takes_four_convolutions_and_the_head():
    shapes = [jax.eval_shape(create(name, **SMALL).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
              for name in ("vgg16", "vgg11")]
    deep, shallow = (jax.tree.map(lambda x, value=value: np.full(x.shape, value), tree)
                     for value, tree in enumerate(shapes))
    grown = grow(deep, shallow)
    taken = {name for name, layer in grown.items() if (layer["kernel"] == 1).all()}
    assert taken == {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}
    with pytest.raises(ValueError, match="conv1_1"):
        grow(deep, {**shallow, "conv1_1": {"kernel": np.zeros((3, 3, 3, 5)), "bias": np.zeros(5)}})
