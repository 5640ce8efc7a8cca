"""What a detector gets wrong, by hand."""

import numpy as np

from cnnjax.data.detection_sets import Objects
from cnnjax.evaluation.detection_errors import outcomes, sizes_of
from cnnjax.evaluation.voc_ap import Detections


def box(x):
    return (x, 0, x + 10, 10)


def found(*rows):
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.float32(boxes).reshape(-1, 4), np.float32(scores), np.int32(classes))


def there(*rows):
    return Objects.of([(box(x), cls, difficult, False) for x, cls, difficult in rows])


def test_each_detection_is_right_of_another_class_or_of_no_object():
    truth = there((0, 0, False), (20, 0, False), (40, 1, False), (60, 1, False))
    detections = found((box(0), 0.9, 0), (box(1), 0.8, 0),              # right, a duplicate
                       (box(21), 0.7, 1), (box(40), 0.6, 1),            # another class, right
                       (box(90), 0.5, 1), (box(60), 0.2, 1))            # nothing there, under the threshold
    errors = outcomes([detections], [truth], 2, 0.3)
    np.testing.assert_array_equal(errors.confusion, [[1, 1, 0], [0, 1, 1], [1, 1, 0]])
    assert (errors.right, errors.false, errors.missed) == (2, 3, 2)


def test_its_own_class_comes_before_a_better_overlap_or_score():
    truth = there((0, 0, False), (2, 1, False))
    errors = outcomes([found((box(1), 0.9, 1), (box(1), 0.8, 0))], [truth], 2, 0.0)
    np.testing.assert_array_equal(errors.confusion, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_difficult_objects_are_neither_missed_nor_wrong_to_find_even_twice():
    truth = there((0, 0, True), (20, 0, True))
    errors = outcomes([found((box(0), 0.9, 0), (box(0), 0.8, 0), (box(0), 0.7, 1))], [truth], 2, 0.0)
    assert not errors.confusion.any()
    assert (errors.right, errors.false, errors.missed) == (0, 0, 0)


def test_an_overlap_of_just_the_threshold_is_not_enough():
    errors = outcomes([found(((0, 0, 10, 20), 0.9, 0))], [there((0, 0, False))], 1, 0.0)
    np.testing.assert_array_equal(errors.confusion, [[0, 1], [1, 0]])


def test_nothing_found_and_nothing_there():
    errors = outcomes([found(), found((box(0), 0.9, 0)), found()], [there(), there(), there((0, 0, False))], 1, 0.0)
    np.testing.assert_array_equal(errors.confusion, [[0, 1], [1, 0]])
    np.testing.assert_array_equal([errors.right, errors.false, errors.missed], [[0, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_sizes_are_coco_s_by_the_annotated_area_where_there_is_one():
    truth = Objects.of([((0, 0, 32, 32), 0, False, False), ((0, 0, 31, 32), 0, False, False),
                        ((0, 0, 97, 96), 0, False, False), ((0, 0, 8, 8), 0, True, False)])
    assert sizes_of([truth]) == {"small": 1, "medium": 1, "large": 1}
    assert sizes_of([truth._replace(areas=np.full(4, 10_000.0))]) == {"small": 0, "medium": 0, "large": 3}
    assert sizes_of([]) == {"small": 0, "medium": 0, "large": 0}
