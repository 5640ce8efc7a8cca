"""Every operation lowers for GPU and TPU with no call back to the host."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from cnnjax import ops

B, S, F = jnp.zeros((2, 80, 4)), jnp.zeros((2, 80)), jnp.zeros((2, 9, 11, 65))
R = jnp.zeros((2, 5, 4))
FUNCTIONS = {
    "nms": (lambda b, s: ops.nms(b, s, 0.5, 10), B, S),
    "batched_nms": (lambda b, s, c: ops.batched_nms(b, s, c, 0.5, 10), B, S, S.astype(jnp.int32)),
    "soft_nms": (lambda b, s: ops.soft_nms(b, s, 10), B, S),
    "propose": (lambda d, s: ops.propose_boxes(d, s, B[0], 60, 60, pre_nms_top_n=70, post_nms_top_n=10), B, S),
    "match": (lambda b, o: ops.match_boxes(b, o, o[:, 0] > 0, 0.7, 0.3, 0.1, True, o[:, 1] > 0), B, R),
    "sample": (lambda s: ops.sample_balanced(jax.random.key(0), s.astype(jnp.int32), 32, 0.5), S),
    "pool": (lambda x, r: jax.value_and_grad(lambda x: ops.roi_pool(x, r, 3, 1 / 16).sum())(x), F, R),
    "align": (lambda x, r: jax.value_and_grad(lambda x: ops.roi_align(x, r, 3, 1 / 16).sum())(x), F, R),
    "warp": (lambda x, r: ops.roi_warp(x, r, 12, context=2), F, R),
    "pyramid": (lambda x, r: (ops.spatial_pyramid_pool(x), ops.roi_pyramid_pool(x, r, 1 / 16)), F, R),
    "boxes": (lambda b: (ops.box_giou(b, b), ops.decode_boxes(ops.encode_boxes(b, b), b)), B),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lowers_for_cuda_and_tpu(name):
    function, *arguments = FUNCTIONS[name]
    exported = export.export(jax.jit(jax.vmap(function)), platforms=("cuda", "tpu"))(*arguments)
    assert "callback" not in exported.mlir_module()
