"""AlexNet and the layers that came with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.errors import UserError
from cnnjax.models import create
from cnnjax.models.alexnet import FullyConnected, adaptive_mean, local_response_norm

SMALL = {"filters": (4, 8, 8, 8, 8), "hidden": 16, "num_classes": 3, "initializer": "he"}


def count(module, size=227):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return sum(x.size for x in jax.tree.leaves(shapes))


def test_parameters():
    assert count(create("alexnet", 1000)) == 60_965_224
    assert count(create("alexnet", 1000, groups=1)) == 62_378_344
    torchvision = {"groups": 1, "filters": (64, 192, 384, 256, 256), "conv1_padding": 2, "pool_to": 6}
    assert count(create("alexnet", 1000, **torchvision), 224) == 61_100_840


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_response_norm_is_the_papers_formula(channels, n, seed):
    a = np.random.default_rng(seed).normal(0, 50, (2, channels)).astype(np.float32)
    expected = np.empty_like(a)
    for i in range(channels):
        near = a[:, max(0, i - n // 2):min(channels - 1, i + (n - 1) // 2) + 1]
        expected[:, i] = a[:, i] / (2 + 1e-4 * np.square(near).sum(1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.asarray(a), n=n), expected, rtol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_adaptive_mean_covers_the_map_in_windows(height, width, size):
    x = np.random.default_rng(height).normal(size=(1, height, width, 2)).astype(np.float32)
    got = np.asarray(adaptive_mean(jnp.asarray(x), size))
    for i in range(size):
        for j in range(size):
            rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
            columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
            np.testing.assert_allclose(got[0, i, j], x[0, rows, columns].mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_fully_connected_slides_over_a_larger_map(random_variables):
    layer = FullyConnected(5, name="fc6")
    x = np.random.default_rng(1).normal(size=(2, 4, 5, 3)).astype(np.float32)
    variables = random_variables(layer, (2, 2, 2, 3))
    whole = layer.apply(variables, x)
    assert whole.shape == (2, 3, 4, 5)
    for i in range(3):
        for j in range(4):
            part = layer.apply(variables, x[:, i:i + 2, j:j + 2])
            np.testing.assert_allclose(whole[:, i, j], part[:, 0, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"fc6: .* such as 2x2x3, found 1x5x3"):
        layer.apply(variables, x[:, :1])


def test_two_groups_see_only_their_own_maps():
    module = create("alexnet", **SMALL)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 67, 67, 3)))
    kernels = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    assert kernels["conv2"] == (5, 5, 2, 8)
    assert kernels["conv3"] == (3, 3, 8, 8)
    assert kernels["conv4"] == kernels["conv5"] == (3, 3, 4, 8)


def test_initialisation_of_the_paper():
    module = create("alexnet", **SMALL | {"initializer": "paper"})
    params = jax.jit(module.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 67, 67, 3)))["params"]
    ones = {name for name, layer in params.items() if (layer["bias"] == 1).all()}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert all((layer["bias"] == 0).all() for name, layer in params.items() if name not in ones)
    everything = np.concatenate([layer["kernel"].ravel() for layer in params.values()])
    assert abs(everything.std() - 0.01) < 3e-4


def test_dropout_needs_its_key_and_follows_it(random_variables):
    module = create("alexnet", stem="cifar", **SMALL)
    x = np.random.default_rng(1).normal(size=(2, 16, 16, 3))
    variables = random_variables(module, x.shape)
    train = jax.jit(lambda key: module.apply(variables, x, train=True, rngs={"dropout": key}))
    one, again, two = (np.asarray(train(jax.random.key(k))) for k in (1, 1, 2))
    assert (one == again).all()
    assert not np.allclose(one, two)
