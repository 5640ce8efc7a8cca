"""Dropout and the number of devices: what is dropped of an example is a matter of its place in the minibatch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.training import optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps
from tests import tiny_runs


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))


BATCH = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)


def loss(variables, batch, key, hyper, axis_name):
    return jnp.square(Net().apply(variables, batch, train=True, rngs={"dropout": key})).mean(), ({}, {})


@pytest.fixture(scope="module")
def config():
    return tiny_runs.classifier("schedule.name=constant", "optimizer.learning_rate=0.5")


def state_of(config):
    return states.create(config, lambda key: Net().init(key, BATCH, train=False))


def parameters_after_a_step(config, devices):
    step = jax.vmap(lambda state, batch: steps.train_step(loss, optimizers.optimizer(config), 0.0, state, batch)[0],
                    (None, 0), axis_name=steps.AXIS)
    after = step(state_of(config), BATCH.reshape(devices, 8 // devices, 5))
    return jax.tree.map(lambda leaf: leaf[0], after.params)


@pytest.mark.parametrize("devices", [2, 4])
def test_what_is_dropped_does_not_depend_on_the_number_of_devices(config, devices):
    jax.tree.map(lambda one, many: np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6),
                 parameters_after_a_step(config, 1), parameters_after_a_step(config, devices))


def test_one_device_drops_what_the_key_of_the_step_says(config):
    """So that a run which goes on by a later version of the library is the run that it was."""
    state = state_of(config)
    key = jax.random.fold_in(jax.random.fold_in(states.stream(jax.random.key(config.seed), "dropout"), 0), 0)
    expected, _ = jax.value_and_grad(lambda params: loss({"params": params}, BATCH, key, {}, None)[0])(state.params)
    step = jax.vmap(lambda state, batch: steps.train_step(loss, optimizers.optimizer(config), 0.0, state, batch)[1],
                    (None, 0), axis_name=steps.AXIS)
    np.testing.assert_allclose(step(state, BATCH[None])["loss"][0], expected, rtol=1e-6)


def test_the_rows_are_not_dropped_alike(config):
    """Each device's share has a mask of its own, though the key is the same for all."""
    def kept(variables, batch, key, hyper, axis_name):
        dropped = nn.Dropout(0.5, deterministic=False).apply({}, batch, rngs={"dropout": key})
        return jnp.zeros(()), ({}, {"kept": dropped})
    seen = jax.vmap(lambda batch: steps.gradients(kept, state_of(config), batch, jax.random.key(0), 1, steps.AXIS)[2],
                    axis_name=steps.AXIS)(jnp.ones((2, 4, 64)))["kept"]
    assert not np.array_equal(seen[0], seen[1])
    assert set(np.unique(seen)) == {0.0, 2.0}
