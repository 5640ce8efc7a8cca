"""What holds for every layer of a network that is called within a context."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models.layers import BatchNorm, as_at_test, frozen_norm, synchronised_norm


class Network(nn.Module):
    """Batch norm and dropout."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dropout(0.5, deterministic=not train)(BatchNorm()(x, train=train))


def normalise(x):
    """Batch norm in training, and the statistics that it leaves."""
    norm = BatchNorm()
    return norm.apply(norm.init(jax.random.key(0), x, train=False), x, train=True, mutable=["batch_stats"])


def test_synchronised_norm_has_the_statistics_of_all_devices():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 6, 5)), jnp.float32)

    def on_devices(x):
        with synchronised_norm("data"):
            return normalise(x)
    together, state = jax.vmap(on_devices, axis_name="data")(x)
    expected, whole = normalise(x.reshape(24, 5))
    np.testing.assert_allclose(together.reshape(24, 5), expected, atol=1e-5)
    for leaf, value in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(leaf, jnp.broadcast_to(value, leaf.shape), rtol=1e-5)
    alone, _ = jax.vmap(normalise)(x)
    assert not np.allclose(alone, together, atol=0.1)


def test_frozen_norm_keeps_its_statistics():
    x = jnp.full((3, 2), 7.0) + jnp.arange(3.0)[:, None]
    with frozen_norm():
        y, state = normalise(x)
    np.testing.assert_allclose(y, x, rtol=1e-4)
    assert all((leaf == value).all() for leaf, value in zip(jax.tree.leaves(state), (0, 1), strict=True))
    assert not np.allclose(normalise(x)[0], x)                      # outside of it nothing is changed


def test_at_test_nothing_is_dropped_and_running_statistics_are_used():
    network, x = Network(), jnp.arange(1.0, 41).reshape(20, 2)
    variables = network.init(jax.random.key(0), x, train=False)
    with as_at_test():
        y, _ = network.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, network.apply(variables, x, train=False))
