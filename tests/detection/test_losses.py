import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection import losses


@pytest.mark.parametrize(("x", "beta", "value"), [(0.5, 1.0, 0.125), (-2.0, 1.0, 1.5), (0.1, 1 / 9, 0.045),
                                                  (1.0, 1 / 9, 1 - 1 / 18), (0.0, 1.0, 0.0)])
def test_smooth_l1_by_hand(x, beta, value):
    assert losses.smooth_l1(jnp.float32(x), beta) == pytest.approx(value, rel=1e-5)


def test_class_loss_ignores_rows_that_are_not_there():
    logits = jnp.array([[0.0, jnp.log(3.0)], [5.0, -5.0], [1e30, -1e30]])
    there = jnp.array([True, False, False])
    value = losses.class_loss(logits, jnp.array([1, 7, -3]), there)
    assert value == pytest.approx(-np.log(0.75), rel=1e-5)
    gradient = jax.grad(lambda z: losses.class_loss(z, jnp.array([1, 7, -3]), there))(logits)
    assert not gradient[1:].any()


def test_nothing_there_is_zero_not_nan():
    nothing = jnp.zeros(2, bool)
    assert losses.class_loss(jnp.ones((2, 3)), jnp.zeros(2, int), nothing) == 0
    assert losses.objectness_loss(jnp.ones(2), nothing, nothing) == 0
    assert losses.box_loss(jnp.ones((2, 4)), jnp.zeros((2, 4)), nothing, jnp.array(0), 1.0) == 0


def test_objectness_loss_by_hand():
    value = losses.objectness_loss(jnp.array([0.0, jnp.log(3.0)]), jnp.array([True, False]), jnp.ones(2, bool))
    assert value == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-5)
