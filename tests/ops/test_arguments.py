"""Arguments that no operation can have are refused by name, and those that it can have are not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops

X, R = jnp.zeros((9, 11, 3)), jnp.array([[8, 8, 100, 90]], jnp.float32)
B, S = jnp.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]], jnp.float32), jnp.array([0.5, 0.9, 0.7])

SIZES = (0, -1, 2.0, math.nan, True, "7", (7, 0), (), ((7,), (7, 7)), None)
SCALES = (0, 0.0, -1 / 16, math.nan, math.inf, None)
SIDES = (0, -64, math.nan, math.inf, np.array([64.0, 0.0]))
BAD = {
    "output_size": ((lambda v: ops.roi_pool(X, R, v, 1 / 16), SIZES), (lambda v: ops.roi_align(X, R, v, 1 / 16), SIZES),
                    (lambda v: ops.roi_warp(X, R, v), SIZES)),
    "spatial_scale": ((lambda v: ops.roi_pool(X, R, 7, v), SCALES), (lambda v: ops.roi_align(X, R, 7, v), SCALES),
                      (lambda v: ops.roi_pyramid_pool(X, R, v), SCALES)),
    "sampling_ratio": ((lambda v: ops.roi_align(X, R, 7, 1 / 16, sampling_ratio=v), (0, -1, 1.5, math.nan, ())),),
    "levels": ((lambda v: ops.spatial_pyramid_pool(X, v), ((0, 1), (), (1, -2), (1.5,), 0)),
               (lambda v: ops.roi_pyramid_pool(X, R, 1 / 16, v), ((0, 1), ()))),
    "stride": ((lambda v: ops.generate_anchors(2, 2, v, (32,), (1,)), (0, -16, math.nan)),
               (lambda v: ops.base_anchors(v, (32,), (1,), "caffe"), (0, -16, math.nan))),
    "scales": ((lambda v: ops.generate_anchors(2, 2, 16, v, (1,)), ((), (32, 0), (-32,), (math.nan,), (math.inf,))),),
    "ratios": ((lambda v: ops.generate_anchors(2, 2, 16, (32,), v), ((), (1, 0), (-1,), (math.nan,), ("1",))),),
    "height": ((lambda v: ops.generate_anchors(v, 2, 16, (32,), (1,)), (0, -1, 2.5)),
               (lambda v: ops.clip_boxes(B, v, 64), SIDES)),
    "width": ((lambda v: ops.generate_anchors(2, v, 16, (32,), (1,)), (0, -1, 2.5)),
              (lambda v: ops.clip_boxes(B, 64, v), SIDES)),
    "max_outputs": ((lambda v: ops.nms(B, S, 0.5, v), (0, -1, 2.0)), (lambda v: ops.soft_nms(B, S, v), (0, -1)),
                    (lambda v: ops.batched_nms(B, S, jnp.zeros(3, int), 0.5, v), (0, -1))),
    "iou_threshold": ((lambda v: ops.nms(B, S, v, 3), (-0.1, 1.1, math.nan, math.inf, "0.5")),
                      (lambda v: ops.batched_nms(B, S, jnp.zeros(3, int), v, 3), (-0.1, 1.1, math.nan))),
    "size": ((lambda v: ops.sample_balanced(jax.random.key(0), jnp.zeros(3, int), v, 0.5), (0, -1)),),
    "positive_share": ((lambda v: ops.sample_balanced(jax.random.key(0), jnp.zeros(3, int), 2, v), (-0.1, 1.1)),),
    "sigma": ((lambda v: ops.soft_nms(B, S, 3, v), (0, -1, math.nan)),),
}


@pytest.mark.parametrize("name", BAD)
def test_an_argument_that_no_operation_can_have_is_named(name):
    for call, values in BAD[name]:
        for value in values:
            with pytest.raises(ValueError, match="expected") as error:
                call(value)
            assert f": {name}: found {value!r}, expected" in str(error.value)


def test_an_adaptive_sampling_ratio_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="static shape"):
        jax.jit(lambda x: ops.roi_align(x, R, 7, 1 / 16, sampling_ratio=-1))(X)


def test_what_an_operation_can_have_passes_whatever_holds_it():
    """Ends of intervals, numbers of NumPy, tuples, arrays of JAX and traced ones."""
    assert ops.nms(B, S, 0, 3)[1].sum() == 2
    assert ops.nms(B, S, np.float32(1.0), np.int64(3))[1].sum() == 3
    assert ops.roi_align(X, R, (2, 3), np.float64(1 / 16), 1).shape == (1, 2, 3, 3)
    assert ops.generate_anchors(1, 2, 16, np.array([32.0, 64.0]), [0.5]).shape == (4, 4)
    sizes = jnp.array([[8.0], [64.0]])
    np.testing.assert_array_equal(ops.clip_boxes(B[None], sizes, sizes), jax.jit(ops.clip_boxes)(B[None], sizes, sizes))
    np.testing.assert_array_equal(ops.clip_boxes(B[None], np.asarray(sizes), 64)[0, 2], [20, 8, 30, 8])
    out = jax.jit(ops.roi_pool, static_argnums=2)(X + 1, R, 2, 1 / 16)
    assert (out == 1).all()
