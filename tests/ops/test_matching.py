"""Labels and samples."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops

BOXES = jnp.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 2], [50, 50, 60, 60], [80, 80, 90, 90]], jnp.float32)
OBJECTS = jnp.array([[0, 0, 10, 10], [50, 50, 70, 70], [0, 0, 0, 0]], jnp.float32)      # IoU 1, .6, .2 and 1/4
VALID = jnp.array([True, True, False])


def test_thresholds_and_the_best_of_each_object():
    labels, objects, ious = ops.match_boxes(BOXES, OBJECTS, VALID, 0.7, 0.3)
    assert labels.tolist() == [1, -1, 0, 0, 0]
    assert objects.tolist()[:4] == [0, 0, 0, 1]
    np.testing.assert_allclose(ious, [1, 0.6, 0.2, 0.25, 0], rtol=1e-6)
    assert ops.match_boxes(BOXES, OBJECTS, VALID, 0.7, 0.3, best_is_positive=True).labels.tolist() == [1, -1, 0, 1, 0]
    assert ops.match_boxes(BOXES, OBJECTS, VALID, 0.5, 0.5, negative_low=0.1).labels.tolist() == [1, 1, 0, 0, -1]


def test_unusable_boxes_leave_the_best_to_others():
    usable = jnp.array([False, True, True, True, True])
    labels = ops.match_boxes(BOXES, OBJECTS, VALID, 0.7, 0.3, best_is_positive=True, usable=usable).labels
    assert labels.tolist() == [-1, 1, 0, 1, 0]


def test_ignored_objects_are_neither_learnt_nor_background():
    labels = ops.match_boxes(BOXES, OBJECTS, VALID, 0.7, 0.3, best_is_positive=True,
                             ignored=jnp.array([False, True, False])).labels
    assert labels.tolist() == [1, -1, 0, -1, 0]                     # the fourth lies within the ignored object


def test_images_without_objects_and_more_padding():
    for objects in (jnp.zeros((0, 4)), jnp.zeros((3, 4)), BOXES[:2]):
        none = jnp.zeros(len(objects), bool)
        labels = ops.match_boxes(BOXES, objects, none, 0.7, 0.3, best_is_positive=True).labels
        assert labels.tolist() == [0] * 5
    objects, mask = jnp.pad(OBJECTS, ((0, 4), (0, 0)), constant_values=5), jnp.pad(VALID, (0, 4))
    longer = ops.match_boxes(BOXES, objects, mask, 0.7, 0.3, best_is_positive=True)
    for a, b in zip(longer, ops.match_boxes(BOXES, OBJECTS, VALID, 0.7, 0.3, best_is_positive=True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_samples_are_balanced_distinct_and_uniform():
    labels = jnp.array([1] * 20 + [0] * 30 + [-1] * 10)
    draw = jax.jit(jax.vmap(lambda key: ops.sample_balanced(key, labels, 16, 0.25)))
    indices, mask = draw(jax.random.split(jax.random.key(0), 400))
    assert mask.all()
    assert (labels[indices] == jnp.array([1] * 4 + [0] * 12)).all()
    assert all(len(set(row)) == 16 for row in indices.tolist())
    counts = np.bincount(np.asarray(indices).ravel(), minlength=60)
    np.testing.assert_allclose(counts[:20], 80, atol=45)            # 5 standard deviations of a binomial
    np.testing.assert_allclose(counts[20:50], 160, atol=50)


def test_samples_where_there_are_too_few():
    indices, mask = ops.sample_balanced(jax.random.key(1), jnp.array([1, 0, -1, 0]), 8, 0.5)
    assert sorted(indices[mask].tolist()) == [0, 1, 3]
    assert not ops.sample_balanced(jax.random.key(1), jnp.full(4, -1), 3, 0.5)[1].any()
