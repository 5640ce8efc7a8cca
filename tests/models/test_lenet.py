"""LeNet-5 against its paper: counts, connections, subsampling, output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.models import create
from cnnjax.models.lenet import C3_TABLE, PartialConv, Subsampling, codes, scaled_tanh


@pytest.fixture(scope="module")
def lenet(random_variables):
    module = create("lenet5")
    return module, random_variables(module, (1, 32, 32, 1))


def sizes(variables):
    return {name: sum(x.size for x in jax.tree.leaves(layer)) for name, layer in variables["params"].items()}


def test_parameters_of_each_layer_are_the_papers(lenet):
    assert sizes(lenet[1]) == {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48120, "F6": 10164}
    assert set(lenet[1]) == {"params"}


@pytest.mark.parametrize(("c3", "count"), [("full", 61706), ("partial", 60806)])
def test_modern_readings(c3, count):
    module = create("lenet5", c3=c3, pooling="average", output="linear")
    assert sum(sizes(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))).values()) == count


def test_stage_sizes(lenet):
    module, variables = lenet
    stages = jax.eval_shape(lambda x: module.apply(variables, x, features=True), jnp.zeros((2, 32, 32, 1)))
    assert {name: x.shape[1:] for name, x in stages.items()} == {
        "C1": (28, 28, 6), "S2": (14, 14, 6), "C3": (10, 10, 16), "S4": (5, 5, 16), "C5": (1, 1, 120), "F6": (84,)}


def test_c3_sees_only_the_maps_of_its_table(random_variables):
    module = PartialConv()
    maps = np.eye(6)[:, None, None] * np.ones((6, 5, 5, 6))                    # example i lights map i alone
    variables = random_variables(module, maps.shape)
    seen = np.asarray(module.apply(variables, maps)[:, 0, 0] != variables["params"]["bias"]).T     # (16, 6)
    assert [tuple(np.flatnonzero(row)) for row in seen] == list(C3_TABLE)
    assert len(set(C3_TABLE)) == 16


def test_subsampling_adds_a_square_times_a_coefficient():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = Subsampling().apply({"params": {"coefficient": jnp.array([0.5]), "bias": jnp.array([3.0])}}, x)
    assert y[0, 0, 0, 0] == 0.5 * (0 + 1 + 4 + 5) + 3
    assert y.shape == (1, 2, 2, 1)


def test_scaled_tanh_keeps_plus_and_minus_one():
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0, 1])), [-1, 0, 1], atol=1e-4)
    assert abs(float(scaled_tanh(jnp.array(100.0))) - 1.7159) < 1e-6


def test_output_is_minus_the_squared_distance_to_the_code(lenet):
    module, variables = lenet
    x = np.random.default_rng(1).normal(size=(3, 32, 32, 1))
    f6, logits = jax.jit(lambda x: (module.apply(variables, x, features=True)["F6"], module.apply(variables, x)))(x)
    distance = np.square(np.asarray(f6)[:, None] - codes(10)).sum(-1)
    np.testing.assert_allclose(logits, -distance, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_codes_are_signs_and_differ(classes):
    table = codes(classes)
    assert table.shape == (classes, 84)
    assert set(np.unique(table)) == {-1, 1}
    assert len(np.unique(table, axis=0)) == classes
    np.testing.assert_array_equal(table, codes(classes))


def test_images_of_28_are_padded_with_their_edge(lenet):
    module, variables = lenet
    inner = np.random.default_rng(1).normal(size=(2, 28, 28, 1)).astype(np.float32)
    outer = np.pad(inner, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    one, two = jax.jit(lambda a, b: (module.apply(variables, a), module.apply(variables, b)))(inner, outer)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_other_sizes_are_refused(lenet):
    with pytest.raises(UserError, match="28x28 or 32x32, found 30x32"):
        lenet[0].apply(lenet[1], jnp.zeros((1, 30, 32, 1)))
