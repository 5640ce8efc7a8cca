from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnnjax import ops
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.detection import linear
from cnnjax.detection.postprocess import Postprocess
from cnnjax.evaluation.voc_ap import iou_matrix

SETTINGS = ConfigDict({"svm_c": 1e-2, "svm_negative": 0.3, "svm_refit": 50, "ridge": 1e-3, "regress": 0.5})


def test_ridge_by_either_matrix_is_the_closed_form():
    rng = np.random.default_rng(0)
    for rows, columns in ((40, 6), (6, 40)):
        x = np.concatenate([rng.normal(size=(rows, columns)), np.ones((rows, 1))], 1)
        y = rng.normal(size=(rows, 4)) * [1, 10, 0.1, 1] + 3
        w = linear.ridge(x, y, 2.0)
        mean = y.mean(0)
        other = np.linalg.inv(x.T @ x + 2.0 * np.eye(columns + 1)) @ x.T @ (y - mean)     # whitening is linear
        other[-1] += mean
        np.testing.assert_allclose(w, other, rtol=1e-4, atol=1e-6)


def classify(variables, threshold, *arrays):
    settings = Postprocess(score_threshold=threshold, nms=0.3, max_detections=10)
    found = jax.jit(partial(linear.classify, variables, settings))(*(x[None] for x in arrays))
    return jax.tree.map(lambda x: x[0], found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features that say plainly what a region is and where its object lies, and what was fitted on them."""
    rng = np.random.default_rng(0)
    objects, proposals = [], []
    for _ in range(12):
        corner = rng.uniform(0, 50, (2, 2)) + np.array([[0, 0], [100, 100]])
        boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (2, 2))], 1).astype(np.float32)
        objects.append(Objects.of([(boxes[0], 0, False, False), (boxes[1], 1, False, False)]))
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        near = np.concatenate([boxes + sides * rng.uniform(-0.1, 0.1, boxes.shape) for _ in range(3)])
        far = rng.uniform(0, 60, (20, 2))
        proposals.append(np.concatenate([near, np.concatenate([far + 200, far + 220], 1)]).astype(np.float32))
    folder = tmp_path_factory.mktemp("features")
    data = DetectionSet(tuple(map(str, range(12))), np.full((12, 2), 300), tuple(objects),
                        lambda i: np.full((1, 1, 3), i, np.uint8))

    def extract(image, boxes):
        truth = objects[image[0, 0, 0]].boxes
        iou = iou_matrix(boxes, truth)
        deltas = np.asarray(ops.encode_boxes(jnp.array(truth[iou.argmax(1)]), jnp.array(boxes)))
        return np.where(iou.max(1, keepdims=True) > 0, deltas, 0), iou + rng.normal(0, 0.01, iou.shape)
    return data, proposals, extract, linear.fit(data, proposals, extract, 2, SETTINGS, 0, folder), folder


def test_svms_and_regression_find_what_the_features_say(trained):
    data, proposals, extract, variables, _ = trained
    pooled, features = extract(np.full((1, 1, 3), 3, np.uint8), proposals[3])
    found = classify(variables, 0.0, jnp.array(pooled), jnp.array(features), jnp.array(proposals[3]),
                     jnp.array([300, 300]))
    kept = np.asarray(found.mask)
    assert sorted(np.asarray(found.classes)[kept].tolist()) == [0, 1]
    for box, cls in zip(np.asarray(found.boxes)[kept], np.asarray(found.classes)[kept], strict=True):
        np.testing.assert_allclose(box, data.objects[3].boxes[cls], atol=1.0)


def test_features_that_are_there_are_not_made_again(trained):
    data, proposals, _, _, folder = trained
    files = linear.cache_features(data, proposals, lambda *_: pytest.fail("made again"), 0.5, folder)
    regions = linear.read_features(files[0])
    assert len(regions.boxes) == 2 + len(proposals[0])
    assert set(regions.near[:2]) == {0, 1}


def test_a_class_without_objects_is_never_found(tmp_path):
    data = DetectionSet(("a",), np.array([[20, 20]]), (Objects.of([((0, 0, 9, 9), 0, False, False)]),),
                        lambda i: np.zeros((20, 20, 3), np.uint8))
    proposals = [np.array([[0, 0, 9, 9], [10, 10, 19, 19]], np.float32)]
    variables = linear.fit(data, proposals, lambda image, boxes: (np.ones((3, 2)), np.array([[1.0], [1], [-1]])), 2,
                     SETTINGS, 0, tmp_path)
    found = classify(variables, -1.0, jnp.ones((2, 2)), jnp.array([[1.0], [-1.0]]), jnp.array(proposals[0]),
                     jnp.array([20, 20]))
    assert set(np.asarray(found.classes)[np.asarray(found.mask)]) == {0}
