"""Against torchvision, through the values that scripts/make_golden_ops.py keeps."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import ops_cases as cases
import pytest

from cnnjax import ops

GOLDEN = dict(np.load(Path(__file__).with_name("golden_ops.npz")))
SIZES = (64, 512, 3000)


@partial(jax.jit, static_argnums=(4,))
def suppress(boxes, scores, classes, mask, threshold):
    size = len(scores)
    return (ops.nms(boxes, scores, threshold, size, mask),
            ops.batched_nms(boxes, scores, classes, threshold, size, mask))


@pytest.mark.parametrize("part", range(4))
def test_suppression_keeps_the_indices_of_torchvision(part):
    for seed in range(part, len(GOLDEN["nms"]), 4):
        boxes, scores, classes, threshold = cases.nms_case(seed)
        inputs, *expected = GOLDEN["nms"][seed]
        assert cases.digest(np.concatenate([boxes.ravel(), scores, classes])) == inputs, "NumPy's generator has changed"
        n = len(scores)
        room = next(size for size in SIZES if n <= size) - n        # padding, so that three programs a threshold do
        padded = (np.pad(boxes, ((0, room), (0, 0)), constant_values=7), np.pad(scores, (0, room), constant_values=2),
                  np.pad(classes, (0, room)), np.arange(n + room) < n)
        found = []
        for indices, mask in suppress(*padded, threshold):
            kept = np.asarray(indices)[np.asarray(mask)]
            found += [len(kept), cases.digest(kept)]
        assert found == expected, f"case {seed}: {cases.KINDS[seed % len(cases.KINDS)]}, {n} boxes at {threshold}"


def check_pooling(name, pool):
    features, _ = cases.roi_case()
    expected = GOLDEN[name]
    cotangent = np.linspace(-1, 1, expected.size, dtype=np.float32).reshape(expected.shape)
    out, backward = jax.vjp(pool, features)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(backward)(cotangent)[0], GOLDEN[name + "_gradient"], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("setting", range(len(cases.ROI_SETTINGS)))
def test_roi_pool(setting):
    size, scale = cases.ROI_SETTINGS[setting]
    check_pooling(f"pool{setting}", jax.jit(lambda x: ops.roi_pool(x, cases.roi_case()[1], size, scale)))


@pytest.mark.parametrize("setting", range(len(cases.ALIGN_SETTINGS)))
def test_roi_align(setting):
    size, scale, ratio, aligned = cases.ALIGN_SETTINGS[setting]
    check_pooling(f"align{setting}",
                  jax.jit(lambda x: ops.roi_align(x, cases.roi_case()[1], size, scale, ratio, aligned)))


@pytest.mark.parametrize(("name", "weights"), [("unit", (1, 1, 1, 1)), ("fast", (10, 10, 5, 5))])
def test_coding(name, weights):
    boxes, anchors, deltas = cases.coder_case()
    # Exact but for the last bits: XLA's exp, log and fused multiply-add round otherwise; boxes reach 1e4 pixels.
    encoded, decoded = ops.encode_boxes(boxes, anchors, weights), ops.decode_boxes(deltas, anchors, weights)
    np.testing.assert_allclose(encoded, GOLDEN[f"encode_{name}"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decoded, GOLDEN[f"decode_{name}"], rtol=2e-6, atol=1e-3)


def test_iou_and_giou():
    boxes, anchors, _ = cases.coder_case()
    np.testing.assert_allclose(ops.box_iou(boxes, anchors), GOLDEN["iou"], atol=1e-6)
    np.testing.assert_allclose(ops.box_giou(boxes, anchors), GOLDEN["giou"], atol=1e-6)


def test_anchors_of_torchvision_are_exact():
    np.testing.assert_array_equal(ops.generate_anchors(3, 4, 16, (128, 256, 512), (0.5, 1, 2)), GOLDEN["anchors"])
