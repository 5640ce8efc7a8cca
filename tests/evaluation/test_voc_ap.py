import numpy as np
import pytest

from cnnjax.data.detection_sets import Objects
from cnnjax.evaluation.voc_ap import Detections, average_precision, proposal_recall, voc_ap, voc_curve


def truth(*rows):
    """Objects of rows (box, class, difficult)."""
    return Objects.of([(box, cls, difficult, False) for box, cls, difficult in rows])


def found(*rows):
    """Detections of rows (box, score, class)."""
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, int))


A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def test_a_worked_example_of_24_detections():
    # Padilla et al., "A survey on performance metrics for object-detection algorithms" (2020): 15 objects.
    true = np.isin(np.arange(24), [0, 2, 9, 11, 12, 13, 22])
    recall, precision = np.cumsum(true) / 15, np.cumsum(true) / np.arange(1, 25)
    assert average_precision(recall, precision, eleven_points=True) == pytest.approx(0.2684, abs=5e-5)
    assert average_precision(recall, precision) == pytest.approx(0.2457, abs=5e-5)


def test_a_duplicate_is_false():
    curve = voc_curve([found((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))], [truth((A, 0, False), (B, 0, False))], 0)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 1])
    assert curve.ap == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_objects_are_neither_counted_nor_wrong_to_find():
    there = [truth((A, 0, True), (B, 0, False))]
    curve = voc_curve([found((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))], there, 0)
    np.testing.assert_allclose(curve.precision, [1])
    assert curve.ap == 1
    assert voc_curve([found((FAR, 0.9, 0), (B, 0.7, 0))], there, 0).ap == pytest.approx(0.5)


def test_an_overlap_of_just_the_threshold_is_not_enough():
    half = (0, 0, 10, 5)                # IoU with A: 0.5
    assert voc_curve([found((half, 0.9, 0))], [truth((A, 0, False))], 0).ap == 0
    assert voc_curve([found((half, 0.9, 0))], [truth((A, 0, False))], 0, iou_threshold=0.49).ap == 1


def test_a_detection_looks_only_at_the_object_it_overlaps_most():
    # VOC: the second looks at A, which is taken, and is not given B, which it overlaps enough as well.
    near = (0, 0, 10, 12)
    curve = voc_curve([found((A, 0.9, 0), ((0, 0, 10, 11), 0.8, 0))], [truth((A, 0, False), (near, 0, False))], 0)
    np.testing.assert_allclose(curve.recall, [0.5, 1])          # 11 is nearer to 12 than to 10
    curve = voc_curve([found((A, 0.9, 0), ((0, 0, 10, 10.5), 0.8, 0))], [truth((A, 0, False), (near, 0, False))], 0)
    np.testing.assert_allclose(curve.recall, [0.5, 0.5])


def test_equal_scores_are_taken_in_order_and_classes_apart():
    ap = voc_ap([found((A, 0.5, 0), (FAR, 0.5, 0), (B, 0.5, 1))], [truth((A, 0, False), (B, 1, False))], 3)
    np.testing.assert_allclose(ap, [1, 1, np.nan])


def test_nothing_found_and_nothing_there():
    assert voc_curve([found()], [truth((A, 0, False))], 0).ap == 0
    assert np.isnan(voc_curve([found((A, 1, 0))], [truth()], 0).ap)
    with pytest.raises(ValueError, match="2 images of detections, 1 of truths"):
        voc_ap([found(), found()], [truth()], 1)


def test_recall_of_the_first_proposals():
    proposals = [np.array([FAR, A, B], np.float32), np.zeros((0, 4), np.float32)]
    there = [truth((A, 0, False), (B, 1, False)), truth((A, 0, False), (B, 0, True))]
    recall = proposal_recall(proposals, there, (1, 2, 3))
    assert recall == {1: 0, 2: pytest.approx(1 / 3), 3: pytest.approx(2 / 3)}
