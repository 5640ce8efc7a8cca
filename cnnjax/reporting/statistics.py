"""Confidence intervals of means over seeds, of shares of examples, and of differences between means."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t over the values); the half is NaN for one value."""
    count = len(values)
    if count < 2:
        return float(np.mean(values)), math.nan
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)
    return float(np.mean(values)), float(half)


def binomial_half_width(share: float, count: int) -> float:
    """Half the width of the 95 % interval of a share measured on `count` examples (Wilson), for a single run."""
    z = 1.96
    return z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))


def difference_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean of `b` less mean of `a`, and half the width of its 95 % interval (Welch's t over the values).

    The half is NaN where either has one value.
    """
    difference = float(np.mean(b) - np.mean(a))
    if min(len(a), len(b)) < 2:
        return difference, math.nan
    va, vb = (np.var(x, ddof=1) / len(x) for x in (a, b))
    if va + vb == 0:
        return difference, 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return difference, float(stats.t.ppf(0.975, freedom) * math.sqrt(va + vb))
