import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import detection
from cnnjax.detection import losses
from cnnjax.detection.roi_heads import roi_loss
from cnnjax.detection.targets import RoITargets


@pytest.mark.parametrize(("x", "beta", "value"), [(0.5, 1.0, 0.125), (-2.0, 1.0, 1.5), (0.1, 1 / 9, 0.045),
                                                  (1.0, 1 / 9, 1 - 1 / 18), (0.0, 1.0, 0.0)])
def test_smooth_l1_by_hand(x, beta, value):
    assert losses.smooth_l1(jnp.float32(x), beta) == pytest.approx(value, rel=1e-5)


def test_the_heads_box_error_counts_as_torchvision_s_where_told():
    """torchvision 0.29, roi_heads.py: beta 1/9, over all sampled RoIs; the paper's code has 1."""
    targets = RoITargets(jnp.zeros((1, 2, 4)), jnp.ones((1, 2), bool), jnp.array([[2, 0]]), jnp.zeros((1, 2, 4)))
    deltas = jnp.zeros((1, 2, 2, 4)).at[0, 0, 1].set(jnp.array([0.05, 0.5, -1.0, 2.0])).at[0, 1].set(9.0)
    for beta, value in ((1 / 9, 0.01125 + 3.5 - 3 / 18), (1.0, 0.00125 + 0.125 + 0.5 + 1.5)):
        assert roi_loss(jnp.zeros((1, 2, 3)), deltas, targets, beta=beta)["box_loss"] == pytest.approx(value / 2)
    assert detection.create("fasterrcnn_resnet50_fpn").box_beta == 1 / 9
    assert detection.create("faster_rcnn_fpn").box_beta == 1


def test_class_loss_ignores_rows_that_are_masked_out():
    logits = jnp.array([[0.0, jnp.log(3.0)], [5.0, -5.0], [1e30, -1e30]])
    mask = jnp.array([True, False, False])
    value = losses.class_loss(logits, jnp.array([1, 7, -3]), mask)
    assert value == pytest.approx(-np.log(0.75), rel=1e-5)
    gradient = jax.grad(lambda z: losses.class_loss(z, jnp.array([1, 7, -3]), mask))(logits)
    assert not gradient[1:].any()


def test_nothing_there_is_zero_not_nan():
    nothing = jnp.zeros(2, bool)
    assert losses.class_loss(jnp.ones((2, 3)), jnp.zeros(2, int), nothing) == 0
    assert losses.objectness_loss(jnp.ones(2), nothing, nothing) == 0
    assert losses.box_loss(jnp.ones((2, 4)), jnp.zeros((2, 4)), nothing, jnp.array(0), 1.0) == 0


def test_objectness_loss_by_hand():
    value = losses.objectness_loss(jnp.array([0.0, jnp.log(3.0)]), jnp.array([True, False]), jnp.ones(2, bool))
    assert value == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-5)
