from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnnjax.detection import losses, roi_heads, rpn
from cnnjax.detection import targets as unjitted
from cnnjax.detection.targets import AnchorTargets, RoITargets, Truth

GOLDEN = dict(np.load(Path(__file__).parent / "golden.npz"))
KEY = jax.random.key(0)
RPN = ConfigDict({"positive": 0.7, "negative": 0.3, "border": 1e9, "rpn_batch": 256, "rpn_fraction": 0.5})
HEAD = ConfigDict({"foreground": 0.5, "background": (0.0, 0.5), "rois": 64, "fraction": 0.25})


def anchor_targets(*arguments):
    """Compiled whole: op by op it takes many times as long."""
    *arrays, config = arguments
    return jax.jit(partial(unjitted.anchor_targets, settings=config))(*arrays)


def roi_targets(*arguments):
    *arrays, config = arguments
    return jax.jit(partial(unjitted.roi_targets, settings=config))(*arrays)


def truth_of(boxes, classes=None, mask=None, difficult=None):
    """A ground truth of boxes that are no padding and easy, unless told otherwise."""
    count = len(boxes)
    return Truth(jnp.asarray(boxes, jnp.float32), jnp.zeros(count, int) if classes is None else jnp.asarray(classes),
                 jnp.zeros(count, bool) if difficult is None else jnp.asarray(difficult),
                 jnp.ones(count, bool) if mask is None else jnp.asarray(mask))


def rpn_loss(objectness, deltas, targets):
    """Objectness and box loss."""
    return tuple(rpn.rpn_loss(rpn.RPNOutput(objectness, deltas, None, ()), targets).values())


def roi_loss(*arguments):
    """Class and box loss."""
    return tuple(roi_heads.roi_loss(*arguments).values())


def altered(config, **fields):
    return ConfigDict({**config, **fields})


def test_anchor_labels_and_deltas_are_torchvision_s():
    every = altered(RPN, rpn_batch=400, rpn_fraction=1.0)
    targets = anchor_targets(KEY, jnp.array(GOLDEN["anchors"]), jnp.array([200, 200]), truth_of(GOLDEN["truth"]),
                             every)
    labels = GOLDEN["anchor_labels"]
    assert set(labels) == {-1, 0, 1}
    np.testing.assert_array_equal(targets.positive, labels == 1)
    np.testing.assert_array_equal(targets.sampled, labels >= 0)
    positive = labels == 1
    np.testing.assert_allclose(targets.deltas[positive], GOLDEN["anchor_deltas"][positive], rtol=1e-4, atol=1e-5)


def test_rpn_losses_are_torchvision_s():
    labels = GOLDEN["anchor_labels"]
    targets = AnchorTargets(jnp.array(labels == 1), jnp.array(labels >= 0), jnp.array(GOLDEN["anchor_deltas"]))
    of_object, of_box = jax.jit(rpn_loss)(jnp.array(GOLDEN["objectness"]), jnp.array(GOLDEN["anchor_predicted"]),
                                              targets)
    assert of_object == pytest.approx(float(GOLDEN["objectness_loss"]), rel=1e-5)
    assert of_box == pytest.approx(float(GOLDEN["rpn_box_loss"]), rel=1e-5)


def test_region_labels_and_deltas_are_torchvision_s():
    # The five boxes that end the golden RoIs are left out: ours joins the ground truth itself.
    rois, every = jnp.array(GOLDEN["rois"]), altered(HEAD, rois=130, fraction=1.0)
    targets = roi_targets(KEY, rois, jnp.ones(125, bool), truth_of(GOLDEN["truth"], GOLDEN["classes"] - 1), every)
    order = {tuple(np.asarray(roi).tolist()): i for i, roi in enumerate(targets.boxes)}
    for roi, label, deltas in zip(GOLDEN["rois"], GOLDEN["roi_labels"], GOLDEN["roi_deltas"], strict=True):
        row = order[tuple(roi.tolist())]
        assert targets.mask[row]
        assert targets.labels[row] == label
        np.testing.assert_allclose(targets.deltas[row], deltas if label else 0, rtol=1e-4, atol=1e-4)


def test_head_losses_are_torchvision_s():
    # torchvision bends smooth L1 at 1/9 here; the paper, and `roi_loss`, at 1.
    labels, deltas = jnp.array(GOLDEN["roi_labels"]), jnp.array(GOLDEN["roi_deltas"])
    scores, moved = jnp.array(GOLDEN["scores"]), jnp.array(GOLDEN["moved"]).reshape(125, 4, 4)
    targets = RoITargets(jnp.array(GOLDEN["rois"])[None], jnp.ones((1, 125), bool), labels[None], deltas[None])
    of_class, of_box = jax.jit(roi_loss)(scores[None], moved[None, :, 1:], targets)
    assert of_class == pytest.approx(float(GOLDEN["class_loss"]), rel=1e-5)
    own = moved[jnp.arange(125), labels]
    assert losses.box_loss(own, deltas, labels > 0, jnp.array(125), beta=1 / 9) == pytest.approx(
        float(GOLDEN["box_loss"]), rel=1e-5)
    difference = np.abs(np.asarray(own - deltas))[np.asarray(labels) > 0]
    by_hand = np.where(difference < 1, difference**2 / 2, difference - 0.5).sum() / 125
    assert of_box == pytest.approx(by_hand, rel=1e-5)


def test_anchors_by_hand():
    anchors = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [40, 40, 50, 50], [-2, 0, 8, 10]], jnp.float32)
    truth = truth_of([[0, 0, 10, 10], [0, 0, 0, 0]], mask=[True, False])
    every = altered(RPN, rpn_batch=8, rpn_fraction=1.0)
    targets = anchor_targets(KEY, anchors, jnp.array([60, 60]), truth, every)
    # IoU 1 and 0.9: positive; 0.5: neither; 0: negative; 2/3, over the border: neither.
    assert targets.positive.tolist() == [True, True, False, False, False]
    assert targets.sampled.tolist() == [True, True, False, True, False]
    np.testing.assert_allclose(targets.deltas[1], [0, 0.5 / 9, 0, np.log(10 / 9)], rtol=1e-5)
    # An anchor that is best of a ground truth is positive at any IoU, and one over the border takes no part.
    targets = anchor_targets(KEY, anchors[2:], jnp.array([60, 60]), truth, altered(every, border=0.0))
    assert targets.positive.tolist() == [True, False, False]
    assert targets.sampled.tolist() == [True, True, False]


def test_an_image_without_objects_has_negatives_only_and_no_box_loss():
    anchors = jnp.array([[0, 0, 10, 10], [20, 20, 30, 30]], jnp.float32)
    none = truth_of(np.zeros((3, 4)), mask=[False] * 3)
    targets = anchor_targets(KEY, anchors, jnp.array([60, 60]), none, altered(RPN, rpn_batch=4))
    assert not targets.positive.any()
    assert targets.sampled.all()
    regions = roi_targets(KEY, anchors, jnp.ones(2, bool), none, HEAD)
    assert int(regions.mask.sum()) == 2
    assert not regions.labels.any()

    def box_losses(deltas):
        return (rpn_loss(jnp.zeros((1, 2)), deltas[None, :2], jax.tree.map(lambda x: x[None], targets))[1] +
                roi_loss(jnp.zeros((1, 64, 3)), jnp.tile(deltas[None, :1, None], (1, 64, 2, 1)),
                                      jax.tree.map(lambda x: x[None], regions))[1])
    value, gradient = jax.jit(jax.value_and_grad(box_losses))(jnp.full((2, 4), 3.0))
    assert value == 0
    assert not gradient.any()


def test_more_padding_changes_no_target():
    rois = jnp.array(GOLDEN["rois"])
    every = altered(HEAD, rois=140, fraction=1.0)

    def labelled(extra):
        targets = roi_targets(KEY, jnp.pad(rois, ((0, extra), (0, 0))), jnp.arange(125 + extra) < 125,
                                 truth_of(np.pad(GOLDEN["truth"], ((0, extra), (0, 0))),
                                          np.pad(GOLDEN["classes"] - 1, (0, extra)), np.arange(5 + extra) < 5), every)
        rows = np.asarray(targets.mask)
        return sorted(map(tuple, np.concatenate([np.asarray(targets.boxes)[rows], np.asarray(targets.deltas)[rows],
                                                 np.asarray(targets.labels)[rows, None]], 1).tolist()))
    np.testing.assert_allclose(labelled(0), labelled(7), rtol=1e-6)


def test_difficult_objects_are_neither_learnt_nor_background():
    rois = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [50, 50, 58, 58]], jnp.float32)
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], difficult=[True, False])
    targets = roi_targets(KEY, rois, jnp.ones(4, bool), truth, altered(HEAD, rois=8, fraction=1.0))
    kept = np.asarray(targets.mask)
    assert sorted(np.asarray(targets.labels)[kept].tolist()) == [0, 2, 2]       # one of the two is the object itself
    assert (np.asarray(targets.boxes)[kept][:, 0] >= 20).all()


def test_only_a_quarter_is_foreground_and_too_easy_background_is_left_out():
    rois = jnp.array([[0, 0, 10, 10]] * 6 + [[0, 0, 10, 3]] * 6 + [[80, 80, 90, 90]] * 6, jnp.float32)
    settings = altered(HEAD, rois=8, background=(0.1, 0.5))
    targets = roi_targets(KEY, rois, jnp.ones(18, bool), truth_of([[0, 0, 10, 10]]), settings)
    assert targets.labels.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert (targets.boxes[2:] == jnp.array([0, 0, 10, 3])).all()
