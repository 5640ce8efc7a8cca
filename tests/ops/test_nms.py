"""Suppression and the proposal layer: properties, padding, what is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops

N = 96


def some_boxes(seed, n=N, spread=120):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, spread, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (n, 2))], 1).astype(np.float32)
    return boxes, rng.permutation(n).astype(np.float32) / n


def plain_iou(a, b):
    corner, far = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    intersection = np.maximum(far - corner, 0).prod(-1)
    return intersection / ((a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1) - intersection)


def plain_greedy(boxes, scores, threshold, limit):
    left, kept = list(np.argsort(-scores, kind="stable")), []
    iou = plain_iou(boxes, boxes)
    while left and len(kept) < limit:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if not iou[best, i] > threshold]
    return kept


run = jax.jit(ops.nms, static_argnums=(3,))


def kept(result):
    indices, mask = map(np.asarray, result)
    assert not mask[mask.sum():].any()                            # the kept come first
    assert (indices[~mask] == 0).all()
    return indices[mask].tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]))
def test_is_plain_greedy_suppression(seed, threshold):
    boxes, scores = some_boxes(seed)
    found = kept(run(boxes, scores, jnp.float32(threshold), N))
    assert found == plain_greedy(boxes, scores, np.float32(threshold), N)
    assert kept(run(boxes, scores, jnp.float32(threshold), 7)) == found[:7]
    iou = plain_iou(boxes[found], boxes[found])
    assert (iou[~np.eye(len(found), dtype=bool)] <= np.float32(threshold)).all()
    order = np.random.default_rng(seed).permutation(N)
    assert order[kept(run(boxes[order], scores[order], jnp.float32(threshold), N))].tolist() == found


def test_equal_scores_go_by_index_and_equality_does_not_suppress():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]], np.float32)      # IoU 1/2 with the second
    assert kept(run(boxes, np.ones(3, np.float32), 0.5, 3)) == [0, 1]
    assert kept(run(boxes, np.ones(3, np.float32), 0.49, 3)) == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_kept_nor_suppresses(bad):
    boxes, scores = some_boxes(0)
    rows = np.arange(0, N, 3)
    rest = np.setdiff1d(np.arange(N), rows)
    expected = rest[plain_greedy(boxes[rest], scores[rest], 0.5, N)].tolist()
    spoilt_scores, spoilt_boxes = scores.copy(), boxes.copy()
    spoilt_scores[rows] = bad
    spoilt_boxes[rows, rows % 4] = bad
    assert kept(run(boxes, spoilt_scores, 0.5, N)) == expected
    assert kept(run(spoilt_boxes, scores, 0.5, N)) == expected


def test_batch_of_images_with_and_without_boxes():
    images = [some_boxes(seed) for seed in range(3)]
    boxes, scores = (np.stack(x) for x in zip(*images, strict=True))
    usable = np.stack([np.ones(N, bool), np.zeros(N, bool), np.arange(N) < 10])
    indices, mask = jax.jit(jax.vmap(lambda b, s, v: ops.nms(b, s, 0.5, 20, v)))(boxes, scores, usable)
    assert mask[1].sum() == 0
    for i, n in ((0, N), (2, 10)):
        assert kept((indices[i], mask[i])) == plain_greedy(boxes[i][:n], scores[i][:n], 0.5, 20)


def test_classes_do_not_meet_and_bfloat16_scores_do():
    boxes, scores = some_boxes(1)
    classes = np.arange(N) % 3
    found = kept(jax.jit(lambda *a: ops.batched_nms(*a, 0.4, N))(boxes, scores, classes))
    apart = []
    for c in range(3):
        own = np.flatnonzero(classes == c)
        apart += own[plain_greedy(boxes[own], scores[own], 0.4, N)].tolist()
    assert found == sorted(apart, key=lambda i: -scores[i])
    low = jnp.asarray(scores, jnp.bfloat16)
    assert kept(run(boxes, low, 0.5, N)) == plain_greedy(boxes, np.asarray(low, np.float32), 0.5, N)


def test_no_boxes():
    indices, mask = ops.nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5, 3)
    assert indices.shape == (3,)
    assert not mask.any()


def test_soft_suppression_against_the_paper_s_loop():
    boxes, scores = some_boxes(2, 20, 40)
    left, expected = scores.copy(), []
    iou = plain_iou(boxes, boxes)
    for _ in range(20):
        best = int(left.argmax())
        if left[best] <= 0.001:
            break
        expected.append((best, left[best]))
        left = left * np.exp(-iou[best] ** 2 / 0.5)
        left[best] = -1
    indices, lowered, mask = jax.jit(ops.soft_nms, static_argnums=2)(boxes, scores, 20)
    assert indices[mask].tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(lowered[mask], [s for _, s in expected], rtol=1e-4)


def test_proposals_are_finite_within_the_image_and_unmoved_by_bad_rows():
    rng = np.random.default_rng(0)
    anchors = ops.generate_anchors(6, 8, 16, (32, 64), (0.5, 1, 2))
    deltas = rng.normal(0, 0.5, anchors.shape).astype(np.float32)
    scores = rng.normal(size=len(anchors)).astype(np.float32)
    propose = jax.jit(lambda d, s: ops.propose_boxes(d, s, anchors, 90, 120, pre_nms_top_n=150, post_nms_top_n=40,
                                                     min_size=4))
    bad = np.arange(0, len(scores), 4)
    low = scores.copy()
    low[bad] = -100                                                 # never proposed: there are better ones
    expected = propose(deltas, low)
    assert expected[2].all()
    for value in (np.nan, np.inf, -np.inf):
        for spoil in ("deltas", "scores"):
            d, s = deltas.copy(), scores.copy()
            if spoil == "deltas":
                d[bad, bad % 2] = value
            else:
                s[bad] = value
            for out, right in zip(propose(d, s), expected, strict=True):
                np.testing.assert_array_equal(out, right)
    boxes, _, mask = propose(deltas, scores)
    assert jnp.isfinite(boxes).all()
    assert ops.inside_image(boxes, 90, 120).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 4).all(1)[mask].all()
