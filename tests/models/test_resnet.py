"""Plain and residual networks: counts, shortcut options, strides, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import create, image_shape
from cnnjax.models.resnet import Block, cifar_blocks
from tests.models.conftest import stage_shapes


def count(name, classes, **fields):
    shapes = jax.eval_shape(create(name, classes, **fields).init, jax.random.key(0), jnp.zeros((1, *image_shape(name))))
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(("depth", "a", "b", "c"), [
    (18, 11_515_688, 11_689_512, 12_043_816), (34, 21_623_848, 21_797_672, 22_716_840),
    (50, 22_780_456, 25_557_032, 40_128_552), (101, 41_772_584, 44_549_160, 76_981_288),
    (152, 57_416_232, 60_192_808, 107_335_720)])
def test_parameters_imagenet(depth, a, b, c):
    assert [count(f"resnet{depth}", 1000, shortcut=option) for option in "ABC"] == [a, b, c]
    if depth < 50:
        assert count(f"plain{depth}", 1000) == a


@pytest.mark.parametrize(("depth", "a", "b"), [(20, 269_722, 272_474), (32, 464_154, 466_906), (44, 658_586, 661_338),
                                               (56, 853_018, 855_770), (110, 1_727_962, 1_730_714)])
def test_parameters_cifar(depth, a, b):
    assert [count(f"resnet{depth}", 10, shortcut=option) for option in "AB"] == [a, b]
    if depth < 110:
        assert count(f"plain{depth}", 10) == a


def test_stage_sizes():
    assert stage_shapes(create("resnet50"), 224) == {
        "stem": (56, 56, 64), "stage1": (56, 56, 256), "stage2": (28, 28, 512), "stage3": (14, 14, 1024),
        "stage4": (7, 7, 2048)}


def run_with_last_scale_zero(block, x):
    """A block's output where its branch gives 0: its shortcut."""
    variables = jax.jit(functools.partial(block.init, train=False))(jax.random.key(0, impl="rbg"), x)
    return jax.jit(functools.partial(block.apply, train=False))(variables, x)


def test_shortcut_a_subsamples_and_pads_half_of_the_new_channels_on_each_side():
    x = np.abs(np.random.default_rng(0).normal(size=(1, 5, 5, 4))).astype(np.float32)
    expected = np.zeros((1, 3, 3, 8), np.float32)
    expected[..., 2:6] = x[:, ::2, ::2]
    np.testing.assert_array_equal(run_with_last_scale_zero(Block(8, stride=2, zero_init=True), x), expected)


@pytest.mark.parametrize(("residual", "expected"), [(True, "x"), (False, "0")])
def test_plain_block_has_no_shortcut(residual, expected):
    x = np.abs(np.random.default_rng(0).normal(size=(1, 5, 5, 4))).astype(np.float32)
    y = run_with_last_scale_zero(Block(4, residual=residual, zero_init=True), x)
    np.testing.assert_array_equal(y, x if expected == "x" else 0 * x)


@pytest.mark.parametrize(("in_3x3", "sizes"), [(False, (3, 3, 3)), (True, (5, 3, 3))])
def test_where_a_bottleneck_strides(in_3x3, sizes):
    block = Block(2, stride=2, bottleneck=True, shortcut="B", stride_in_3x3=in_3x3)
    x = jnp.zeros((1, 5, 5, 4))
    variables = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x)
    _, state = jax.eval_shape(lambda v, x: block.apply(v, x, train=False, capture_intermediates=True), variables, x)
    outputs = state["intermediates"]
    assert tuple(outputs[f"conv{i}"]["__call__"][0].shape[1] for i in (1, 2, 3)) == sizes


def test_depths_that_do_not_exist():
    with pytest.raises(ValueError, match="6n \\+ 2"):
        cifar_blocks(21)


def test_epsilon_of_batch_norm():
    """Frozen batch norm of old detectors has none: with a variance of 1e-5 that is a factor of the square root of 2."""
    block = Block(4, norm_epsilon=0.0)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    variables = block.init(jax.random.key(1), x, train=False)
    small = {**variables, "batch_stats": jax.tree.map(lambda v: 1e-5 * v, variables["batch_stats"])}
    inner = [b.apply(small, x, train=False, capture_intermediates=True)[1]["intermediates"]["norm1"]["__call__"][0]
             for b in (block, block.clone(norm_epsilon=1e-5))]
    np.testing.assert_allclose(inner[0], 2**0.5 * inner[1], rtol=1e-5, atol=1e-4)
