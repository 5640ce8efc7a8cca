"""GoogLeNet: counts, sizes, the order of its heads, pooling that rounds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.interpreters.partial_eval import dce_jaxpr

from cnnjax.models import create
from cnnjax.models.googlenet import MODULES, max_pool
from tests.models.conftest import stage_shapes

TORCHVISION = {"batch_norm": True, "large_kernel": 3, "pool4": 2, "aux_pool": "4x4"}


@pytest.mark.parametrize(("fields", "count"), [
    ({"aux": False}, 6_998_552), ({}, 13_378_280),
    ({"aux": False, **TORCHVISION}, 6_624_904), (TORCHVISION, 13_004_888)])
def test_parameters(fields, count):
    shapes = jax.eval_shape(create("googlenet", 1000, **fields).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(("stem", "size", "sides"), [("imagenet", 224, (56, 28, 14, 7)), ("cifar", 32, (32, 16, 8, 4))])
def test_stage_sizes(stem, size, sides):
    channels = {"stem": 192, "3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832,
                "5b": 1024}
    expected = {}
    for name, filters in channels.items():
        side = sides[0] if name == "stem" else sides[int(name[0]) - 2]
        expected[name] = (side, side, filters)
    assert stage_shapes(create("googlenet", stem=stem), size) == expected


def test_heads_hang_on_4a_and_4d_in_that_order():
    module = create("googlenet", num_classes=3, stem="cifar")
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def heads(variables):
        return module.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})

    jaxpr = jax.make_jaxpr(heads)(variables).jaxpr
    modules = [path[1].key for path, _ in jax.tree_util.tree_leaves_with_path(variables)]

    def used_by(output: int) -> set[str]:
        _, used = dce_jaxpr(jaxpr, [output == i for i in range(3)])
        return {module for module, is_used in zip(modules, used, strict=True) if is_used}

    trunk = ["conv1", "conv2_reduce", "conv2", *(f"inception{name}" for name in MODULES)]
    assert used_by(0) == {*trunk, "classifier"}
    assert used_by(1) == {*trunk[:6], "aux1"}                                  # up to 4a
    assert used_by(2) == {*trunk[:9], "aux2"}                                  # up to 4d


@given(st.integers(3, 12), st.integers(2, 3), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_max_pool_rounds_up(side, window, seed):
    x = -np.abs(np.random.default_rng(seed).normal(size=(1, side, side, 1))).astype(np.float32)
    y = np.asarray(max_pool(jnp.asarray(x), window, 2))
    count = int(np.ceil((side - window) / 2)) + 1
    assert y.shape == (1, count, count, 1)
    for i in range(count):
        for j in range(count):
            assert y[0, i, j, 0] == x[0, 2 * i:2 * i + window, 2 * j:2 * j + window, 0].max()
