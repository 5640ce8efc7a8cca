"""What is measured on trained networks, each on a case whose answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import diagnostics, landscape, models
from cnnjax.reporting import why


@pytest.fixture(scope="module")
def case():
    """A ResNet of three blocks with its variables, 60 images of 8x8, labels that it gets right."""
    module = models.create("resnet20", 3, blocks=(1, 1, 1), width=4)
    inputs = np.random.default_rng(0).normal(size=(60, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), inputs[:1])
    return module, variables, inputs, answers(module, variables, inputs)


def answers(module, variables, inputs):
    return np.asarray(jax.jit(module.apply)(variables, inputs).argmax(-1))


def test_loss_and_error_count_each_image_once(case):
    """60 images are no multiple of a batch of 25."""
    module, variables, inputs, labels = case
    labels = np.where(np.arange(60) < 15, (labels + 1) % 3, labels)
    loss, error = diagnostics.mean_loss_and_error(module, inputs, labels)(variables)
    logits = jax.nn.log_softmax(jax.jit(module.apply)(variables, inputs))
    assert error == 0.25
    assert loss == pytest.approx(-float(logits[np.arange(60), labels].mean()), rel=1e-5)


def test_removing_a_residual_block_that_adds_nothing_changes_nothing(case):
    module, variables, inputs, labels = case
    silent = jax.tree.map(lambda x: x, variables)
    silent["params"]["stage2_block1"]["norm2"] = {k: jnp.zeros(8) for k in ("scale", "bias")}
    evaluate = diagnostics.mean_loss_and_error(module, inputs, labels)
    without = evaluate(variables, np.array([True, False, True]))
    assert without == pytest.approx(evaluate(silent), rel=1e-5)         # removed is the same as silent
    assert without[0] != pytest.approx(evaluate(variables)[0], rel=1e-3)
    removal = diagnostics.block_removal(module, silent, inputs, answers(module, silent, inputs))
    assert removal["block"] == ["stage1_block1", "stage2_block1", "stage3_block1"]
    assert (removal["whole"], removal["error"][1], removal["images"]) == (0, 0, 60)
    assert removal["error"][2] > 0


class Power(nn.Module):
    """The sum of the inputs to a power: one logit whose gradient at x is `power * x**(power - 1)`."""

    power: int

    @nn.compact
    def __call__(self, x, *, train=False):
        self.param("unused", nn.initializers.zeros, (1,))
        return (x**self.power).sum((1, 2, 3))[:, None]


def test_gradients_of_a_linear_network_are_the_same_everywhere():
    inputs = np.random.default_rng(0).normal(size=(4, 3, 3, 1)).astype(np.float32)
    variables = {"params": {"unused": jnp.zeros(1)}}
    correlation = diagnostics.gradient_correlation(Power(1), variables, inputs, np.zeros(4, int))
    assert correlation == pytest.approx([1.0])


def test_gradients_of_a_square_are_the_inputs():
    """Two orthogonal inputs of one length, moved by a share s towards each other: cos = (1 - s) / |(1 - s, s)|."""
    inputs = np.eye(2, dtype=np.float32).reshape(2, 1, 2, 1)
    variables = {"params": {"unused": jnp.zeros(1)}}
    for share in (0.1, 0.5, 1.0):
        expected = (1 - share) / np.hypot(1 - share, share)
        correlation = diagnostics.gradient_correlation(Power(2), variables, inputs, np.zeros(2, int), share=share)
        assert correlation == pytest.approx([expected], abs=1e-6)


def test_gradient_correlation_has_a_value_for_the_image_and_each_block(case):
    module, variables, inputs, labels = case
    correlation = diagnostics.gradient_correlation(module, variables, inputs, labels)
    assert len(correlation) == 4
    assert correlation[-1] == pytest.approx(1, abs=1e-5)        # a mean and a linear layer are left: constant gradients
    assert correlation[0] < 0.999


def test_a_direction_has_the_norm_of_each_filter_and_none_in_biases_and_norms(case):
    params = case[1]["params"]
    direction = landscape.random_direction(params, jax.random.key(0))
    for leaf, found in zip(jax.tree.leaves(params), jax.tree.leaves(direction), strict=True):
        axes = tuple(range(leaf.ndim - 1))
        if leaf.ndim < 2:
            assert not found.any()
        else:
            np.testing.assert_allclose(jnp.square(found).sum(axes), jnp.square(leaf).sum(axes), rtol=1e-4)
            assert abs(float((leaf * found).sum())) < 0.5 * float(jnp.square(leaf).sum())       # another direction


def test_the_surface_of_a_quadratic_is_that_quadratic():
    """|p|^2 along two axes from p = (1, 0, 2): (1 + a)^2 + (3 b)^2 + 4."""
    params, directions = jnp.array([1.0, 0.0, 2.0]), [jnp.array([1.0, 0, 0]), jnp.array([0, 3.0, 0])]
    steps, loss = landscape.surface(lambda p: float((p**2).sum()), params, directions, points=5, reach=2)
    np.testing.assert_allclose(steps, [-2, -1, 0, 1, 2])
    a, b = np.meshgrid(steps, steps)
    np.testing.assert_allclose(loss, (1 + a) ** 2 + 9 * b**2 + 4, rtol=1e-6)


def test_the_levels_of_a_surface_count_what_is_not_finite_as_infinite():
    surface = {"steps": [-1, 0, 1], "loss": [[1.0, 1.9, 2.0], [3.0, 0.7, 4.0], [1.5, 9.0, 0.5]]}
    assert why.surface_levels(surface) == (0.7, 1.9, 9.0)
    surface["loss"][1][2] = None
    assert why.surface_levels(surface) == (0.7, 1.9, float("inf"))
