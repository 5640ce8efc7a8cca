"""Errors, confusions, intervals and calibration of answers that are known."""

import numpy as np
import pytest

from cnnjax.evaluation import classification as scores

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]])
LABELS = np.array([0, 1, 1, 2, 2])


def test_top_errors_and_ties():
    assert scores.top_error(PROBABILITIES, LABELS) == 0.4
    assert scores.top_error(PROBABILITIES, LABELS, 2) == 0.2         # of the last one 0.05 twice: a tie counts against
    assert scores.top_error(PROBABILITIES, LABELS, 3) == 0
    assert scores.top_error(np.full((1, 3), np.nan), np.array([0])) == 1


def test_confusions_have_the_class_in_the_row():
    np.testing.assert_array_equal(scores.confusion_matrix(PROBABILITIES, LABELS), [[1, 0, 0], [1, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize(("wrong", "count", "interval"), [
    (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (5, 10, (0.2366, 0.7634)), (0, 0, (0.0, 1.0))])
def test_wilson_s_interval(wrong, count, interval):
    assert scores.wilson_interval(wrong, count) == pytest.approx(interval, abs=2e-4)


def test_calibration_of_two_bins():
    """Confidences 0.7, 0.8, 0.5, 0.6, 0.9 in bins (0, 0.5] and (0.5, 1]: one of one wrong, three of four right."""
    found = scores.calibration(PROBABILITIES, LABELS, bins=2)
    np.testing.assert_array_equal(found.counts, [1, 4])
    np.testing.assert_allclose(found.confidence, [0.5, 0.75])
    np.testing.assert_allclose(found.accuracy, [0.0, 0.75])
    assert found.error == pytest.approx(0.2 * 0.5 + 0.8 * 0.0)


def test_the_most_confident_mistakes_come_first():
    np.testing.assert_array_equal(scores.confident_mistakes(PROBABILITIES, LABELS, 5), [4, 2])
    np.testing.assert_array_equal(scores.confident_mistakes(PROBABILITIES, LABELS, 1), [4])
    assert len(scores.confident_mistakes(PROBABILITIES[:2], LABELS[:2], 5)) == 0
