"""The accelerated convolution against XLA's own: values, gradients, fallbacks, and what other platforms get."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import launch
from cnnjax.models.layers import conv
from cnnjax.models.resnet import ResNet
from cnnjax.ops.conv import conv_general_dilated
from tests.conftest import devices_of_cpu

NUMBERS = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def value_and_gradients(function, x, kernel, stride, padding):
    y, pull = jax.vjp(lambda x, kernel: function(x, kernel, stride, padding, dimension_numbers=NUMBERS), x, kernel)
    return y, *pull(draw(*y.shape, seed=9, dtype=y.dtype))


def assert_close(got, want, tolerance):
    """Within `tolerance` of the largest entry: a sum of many terms has no smaller error anywhere."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-30))


CASES = {
    "3x3": ((4, 8, 8, 16), (3, 3, 16, 16), (1, 1), ((1, 1), (1, 1))),
    "odd size": ((3, 7, 5, 8), (3, 3, 8, 12), (1, 1), ((1, 1), (1, 1))),
    "stride": ((4, 8, 8, 8), (3, 3, 8, 16), (2, 2), ((1, 1), (1, 1))),
    "stride, odd size": ((2, 9, 7, 8), (3, 3, 8, 16), (2, 2), ((1, 1), (1, 1))),
    "first layer": ((4, 9, 9, 3), (3, 3, 3, 16), (1, 1), ((1, 1), (1, 1))),
    "ImageNet stem": ((2, 23, 23, 3), (7, 7, 3, 8), (2, 2), ((3, 3), (3, 3))),
    "AlexNet stem": ((2, 27, 27, 3), (11, 11, 3, 8), (4, 4), ((2, 2), (2, 2))),
    "5x5": ((2, 6, 6, 16), (5, 5, 16, 8), (1, 1), ((2, 2), (2, 2))),
    "1x1": ((2, 6, 6, 16), (1, 1, 16, 32), (1, 1), ((0, 0), (0, 0))),
    "1x1, stride": ((2, 6, 6, 16), (1, 1, 16, 32), (2, 2), ((0, 0), (0, 0))),
    "VALID": ((2, 6, 7, 8), (3, 3, 8, 8), (1, 1), "VALID"),
    "SAME, stride": ((2, 6, 7, 8), (3, 3, 8, 8), (2, 2), "SAME"),
    "uneven": ((2, 6, 7, 8), (3, 2, 8, 8), (1, 2), ((2, 0), (0, 3))),
    "more padding than kernel": ((2, 4, 4, 8), (3, 3, 8, 8), (1, 1), ((3, 4), (4, 3))),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_xla(case):
    x, kernel, stride, padding = CASES[case]
    x, kernel = draw(*x), draw(*kernel, seed=1)
    got, want = (jax.jit(value_and_gradients, static_argnums=(0, 3, 4))(function, x, kernel, stride, padding)
                 for function in (conv_general_dilated, jax.lax.conv_general_dilated))
    assert_close(got, want, 1e-5)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_any_window(data):
    def size(low, high):
        return data.draw(st.integers(low, high))

    kernel, stride = (size(1, 4), size(1, 4)), (size(1, 3), size(1, 3))
    padding = ((size(0, 3), size(0, 3)), (size(0, 3), size(0, 3)))
    x = draw(size(1, 3), size(4, 7), size(4, 7), size(1, 9))
    w = draw(*kernel, x.shape[-1], size(1, 9), seed=1)
    assert_close(value_and_gradients(conv_general_dilated, x, w, stride, padding),
                 value_and_gradients(jax.lax.conv_general_dilated, x, w, stride, padding), 1e-5)


@pytest.mark.parametrize("size", [50_000, 10_000, 1_000])
@pytest.mark.parametrize("case", ["3x3", "stride, odd size", "ImageNet stem", "uneven", "more padding than kernel"])
def test_chunks_of_images_and_of_rows_add_up(monkeypatch, case, size):
    monkeypatch.setattr("cnnjax.ops.conv._CHUNK_BYTES", (size, size))
    x, kernel, stride, padding = CASES[case]
    x, kernel = draw(*x), draw(*kernel, seed=1)
    got, want = (value_and_gradients(function, x, kernel, stride, padding)
                 for function in (conv_general_dilated, jax.lax.conv_general_dilated))
    assert_close(got, want, 1e-5)


def test_bfloat16_sums_in_float32():
    x, kernel = draw(8, 8, 8, 16, dtype=jnp.bfloat16), draw(3, 3, 16, 16, seed=1, dtype=jnp.bfloat16)
    got = value_and_gradients(conv_general_dilated, x, kernel, (1, 1), "SAME")
    want = value_and_gradients(jax.lax.conv_general_dilated, x.astype(jnp.float32), kernel.astype(jnp.float32), (1, 1),
                               "SAME")
    assert all(a.dtype == jnp.bfloat16 for a in got)
    assert_close(got[2].astype(jnp.float32), want[2], 2 ** -8)          # one rounding, of the sum


def test_inside_a_loop():
    """Where XLA's own gradients fall back to scalar code."""
    x, kernel = draw(4, 6, 6, 8), draw(3, 3, 8, 8, seed=1)

    def descend(function):
        def step(state, _):
            def loss(x, kernel):
                return jnp.square(function(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)).mean()
            return jax.tree.map(lambda a, da: a - da, state, jax.grad(loss, (0, 1))(*state)), None
        return jax.lax.scan(step, (x, kernel), length=3)[0]

    assert_close(descend(conv_general_dilated), descend(jax.lax.conv_general_dilated), 1e-5)


def test_vmap_over_kernels_and_a_second_derivative():
    x, kernels = draw(2, 5, 5, 3), draw(3, 3, 3, 3, 4, seed=1)

    def penalty(function):
        def loss(kernel):
            return jnp.square(function(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)).sum()
        return jax.vmap(jax.grad(lambda kernel: jnp.square(jax.grad(loss)(kernel)).sum()))(kernels)

    assert_close(penalty(conv_general_dilated), penalty(jax.lax.conv_general_dilated), 1e-5)


def test_groups_are_those_of_flax():
    x = draw(2, 6, 6, 8)
    ours, theirs = (conv(6, 3, feature_group_count=2, **f) for f in ({}, {"conv_general_dilated": None}))
    variables = ours.init(jax.random.key(0), x)
    got, want = (jax.value_and_grad(lambda v, c=c: jnp.square(c.apply(v, x)).sum())(variables) for c in (ours, theirs))
    assert_close(got, want, 1e-5)


def test_dilation_and_one_dimension_are_those_of_flax():
    for fields in ({"kernel_dilation": 2}, {"input_dilation": 2}):
        x = draw(2, 6, 6, 4)
        ours, theirs = conv(4, 3, **fields), conv(4, 3, conv_general_dilated=None, **fields)
        variables = ours.init(jax.random.key(0), x)
        assert_close(ours.apply(variables, x), theirs.apply(variables, x), 0)
    line = nn.Conv(4, (3,), conv_general_dilated=conv_general_dilated)
    x = draw(2, 6, 4)
    variables = line.init(jax.random.key(0), x)
    assert_close(line.apply(variables, x), nn.Conv(4, (3,)).apply(variables, x), 0)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_residual_network_steps_as_with_plain_convolutions(monkeypatch, devices):
    """Loss, gradients and batch statistics of a whole network with synchronised batch norm, on one device and two."""
    if jax.local_device_count() < devices:                          # this very test in a process that has them
        test = f"{__file__}::{test_a_residual_network_steps_as_with_plain_convolutions.__name__}[{devices}]"
        environment = launch.environment(devices, devices_of_cpu(devices))
        run = subprocess.run([sys.executable, "-m", "pytest", test], env=environment, text=True, capture_output=True)
        assert "1 passed" in run.stdout, run.stdout
        return
    module = ResNet(10, (1, 1), 8, bn_axis_name="data")
    x, labels = draw(devices, 8, 8, 8, 3), jnp.arange(devices * 8).reshape(devices, 8) % 10
    variables = module.init(jax.random.key(0), x[0])

    def step(params, stats, x, labels):
        def loss_fn(params):
            logits, new = module.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), new
        return jax.lax.pmean(jax.value_and_grad(loss_fn, has_aux=True)(params), "data")

    def run():
        pmapped = jax.pmap(lambda *args: step(*args), axis_name="data", in_axes=(None, None, 0, 0),
                           devices=jax.local_devices()[:devices])
        return pmapped(variables["params"], variables["batch_stats"], x, labels)

    fast = run()
    monkeypatch.setattr("cnnjax.models.layers.conv_general_dilated", None)             # Flax then takes XLA's
    assert_close(fast, run(), 1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_their_own_convolutions(platform):
    x, kernel = draw(4, 8, 8, 16), draw(3, 3, 16, 16)

    def step(function):
        def loss(x, kernel):
            return function(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS).sum()
        return jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=[platform])(x, kernel).mlir_module()

    ours, plain = step(conv_general_dilated), step(jax.lax.conv_general_dilated)
    assert ours.count("stablehlo.convolution") == plain.count("stablehlo.convolution") > 0
    assert not any(f"stablehlo.{name}" in ours for name in ("custom_call", "while", "dot_general"))
