"""Error by class, confusions and calibration of a classifier, from probabilities (N, K) and labels (N,)."""

from typing import NamedTuple

import numpy as np


def top_error(probabilities: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The share of examples whose class is not among the `k` most probable; a tie counts against it, as does NaN."""
    own = probabilities[np.arange(len(labels)), labels][:, None]
    rank = probabilities.shape[1] - 1 - np.sum(probabilities < own, 1)
    return float(np.mean(rank >= k))


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K, K) int64: examples of the class of the row that were called the class of the column."""
    classes = probabilities.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return counts


def wilson_interval(wrong: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of `count` examples (Wilson 1927); (0, 1) of none."""
    if not count:
        return 0.0, 1.0
    share = wrong / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


class Calibration(NamedTuple):
    """Examples binned by the probability of the class that they were called."""

    confidence: np.ndarray      # (B,) its mean in each bin; NaN in an empty one
    accuracy: np.ndarray        # (B,) the share that is right
    counts: np.ndarray          # (B,) int64
    error: float                # the expected calibration error


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Reliability in bins of equal width, and the mean distance of confidence and accuracy over all examples (Guo et
    al. 2017, section 2)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)        # bin b holds (b / bins, ...]
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        means, accuracy = (np.bincount(which, values, bins) / count for values in (confidence, right))
    error = np.nansum(count * np.abs(means - accuracy)) / max(len(labels), 1)
    return Calibration(means, accuracy, count, float(error))


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` wrong examples, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most]
