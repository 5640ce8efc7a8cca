"""Weights and shapes of networks without compiling an initialisation, which is what takes the time in small tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def random_variables(module, shape, **call):
    """Variables of `module` for input `shape`: N(0, 0.2), with scales and variances around 1, from a fixed seed."""
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **call), jnp.zeros(shape))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(0, 0.2, leaf.shape)
        return (1 + np.abs(values) if path[-1].key in ("scale", "var") else values).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(name="random_variables", scope="session")
def random_variables_fixture():
    return random_variables


def stage_shapes(module, size):
    """The shapes of a network's stages by name, without the batch, of images of size x size."""
    def stages(x):
        return module.apply(module.init(jax.random.key(0), x), x, features=True)
    return {name: stage.shape[1:] for name, stage in jax.eval_shape(stages, jnp.zeros((1, size, size, 3))).items()}
