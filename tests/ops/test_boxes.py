"""Boxes and anchors by hand and by property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops

number = st.floats(0, 1000, width=32)
size = st.floats(1, 500, width=32)
box = st.tuples(number, number, size, size).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def test_area_and_iou():
    boxes = jnp.array([[0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 3], [9, 9, 2, 2]], jnp.float32)
    np.testing.assert_array_equal(ops.box_area(boxes), [100, 100, 0, 0])
    iou = ops.box_iou(boxes, boxes)
    np.testing.assert_allclose(iou[:2, :2], [[1, 1 / 3], [1 / 3, 1]], rtol=1e-6)
    np.testing.assert_array_equal(iou[2:], 0)                       # empty and reversed ones too
    assert jnp.isfinite(jax.grad(lambda b: ops.box_iou(b, b).sum() + ops.box_giou(b, b).sum())(boxes)).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(box, box), min_size=4, max_size=4))
def test_decode_inverts_encode(pairs):
    boxes, anchors = jnp.array(pairs, jnp.float32).transpose(1, 0, 2)
    small = jnp.minimum((boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2]), 62) < 62
    decoded = ops.decode_boxes(ops.encode_boxes(boxes, anchors, (10, 10, 5, 5)), anchors, (10, 10, 5, 5))
    fits = small.all(1)
    np.testing.assert_allclose(decoded[fits], boxes[fits], atol=2e-2)
    np.testing.assert_allclose(ops.decode_boxes(jnp.zeros((4, 4)), anchors), anchors, rtol=1e-5, atol=1e-3)


def test_huge_deltas_and_padding_stay_finite():
    anchors = jnp.array([[0, 0, 16, 16]], jnp.float32)
    np.testing.assert_allclose(ops.decode_boxes(jnp.array([[0, 0, 100.0, 100.0]]), anchors),
                               [[-492, -492, 508, 508]], rtol=1e-4)
    assert jnp.isfinite(ops.encode_boxes(jnp.zeros((1, 4)), anchors)).all()
    assert jnp.isfinite(ops.encode_boxes(anchors[:, jnp.array([2, 3, 0, 1])], jnp.zeros((1, 4)))).all()


def test_conversions():
    np.testing.assert_array_equal(ops.voc_to_boxes([[1, 1, 500, 375]]), [[0, 0, 500, 375]])     # the whole image
    boxes = jnp.array([[10, 20, 40, 60]], jnp.float32)
    np.testing.assert_array_equal(ops.boxes_to_voc(ops.voc_to_boxes(boxes)), boxes)
    np.testing.assert_array_equal(ops.boxes_to_coco(boxes), [[10, 20, 30, 40]])
    np.testing.assert_array_equal(ops.coco_to_boxes(ops.boxes_to_coco(boxes)), boxes)
    np.testing.assert_array_equal(ops.flip_boxes(boxes, 100), [[60, 20, 90, 60]])
    np.testing.assert_array_equal(ops.resize_boxes(boxes, 2, 0.5), [[5, 40, 20, 120]])
    np.testing.assert_array_equal(ops.clip_boxes(jnp.array([[-5, -5, 400, 90.0]]), 50, 300), [[0, 0, 300, 50]])


def test_the_nine_anchors_of_the_released_code():
    nine = [[-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199], [-56, -56, 71, 71],
            [-120, -120, 135, 135], [-248, -248, 263, 263], [-36, -80, 51, 95], [-80, -168, 95, 183],
            [-168, -344, 183, 359]]
    anchors = ops.generate_anchors(2, 3, 16, (128, 256, 512), (0.5, 1, 2), "caffe")
    assert anchors.shape == (2 * 3 * 9, 4)
    np.testing.assert_array_equal(anchors[:9], nine)
    np.testing.assert_array_equal(anchors[9:18] - anchors[:9], [[16, 0, 16, 0]] * 9)       # x varies before y
    np.testing.assert_array_equal(anchors[27:36] - anchors[:9], [[0, 16, 0, 16]] * 9)


def test_centred_anchors():
    anchors = ops.base_anchors(16, (128,), (0.5, 2), "centre")
    np.testing.assert_allclose((anchors[:, :2] + anchors[:, 2:]) / 2, 8)
    np.testing.assert_allclose(ops.box_area(anchors), 128**2, rtol=1e-6)
    with pytest.raises(ValueError, match="style"):
        ops.base_anchors(16, (128,), (1,), "center")


def test_inside_image():
    boxes = jnp.array([[0, 0, 30, 20], [-1, 0, 5, 5], [0, 0, 31, 5]], jnp.float32)
    assert ops.inside_image(boxes, 20, 30).tolist() == [True, False, False]
    assert ops.inside_image(boxes, 20, 30, border=1).tolist() == [True, True, True]


def test_anchors_of_a_map_that_does_not_divide_the_image_have_a_stride_an_axis():
    anchors = ops.generate_anchors(2, 3, (61, 64), (32,), (1,)).reshape(2, 3, 4)
    np.testing.assert_array_equal(anchors[1, 2], [128 - 16, 61 - 16, 128 + 16, 61 + 16])
    with pytest.raises(ValueError, match="have one"):
        ops.generate_anchors(2, 3, (61, 64), (32,), (1,), "caffe")
