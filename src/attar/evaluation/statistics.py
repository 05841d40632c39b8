"""Mean, spread and paired differences of a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95

# Student's t at 97.5 % for 1, 2, ... 30 degrees of freedom. Beyond, the last one: a little too wide, never too narrow.
T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the standard deviation over n - 1; None where n is 1, because one value has no spread."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean difference of pairs and its 95 % confidence interval.

        d +- t_{n-1} s_d / sqrt(n),   d_i = first_i - second_i

    Args:
        first: one value a seed.
        second: one value a seed, the same seeds in the same order.

    Returns:
        (mean, low, high); low and high are None for a single pair.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, std = mean_and_std(differences)
    if std is None:
        return mean, None, None
    half = T_975[min(len(differences) - 1, len(T_975)) - 1] * std / math.sqrt(len(differences))
    return mean, mean - half, mean + half
