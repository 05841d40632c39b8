"""Mean, spread and paired differences of a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

CONFIDENCE = 0.95
NOISE: Literal["within noise"] = "within noise"
SPREADLESS = 1e-9
"""Percentage points: an interval narrower than this has seen no spread, which so few seeds cannot show."""

Verdict: TypeAlias = Literal["better", "worse", "within noise", "one seed: unknown", "no spread seen: unknown"]


class Interval(NamedTuple):
    """A mean difference and its 95 % confidence interval; low and high are None for a single seed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """E.g. "+4.1 [+1.0, +7.2]"."""
        interval = f" [{self.low:+.1f}, {self.high:+.1f}]" if self.low is not None else ""
        return f"{self.mean:+.1f}{interval}"

    @property
    def verdict(self) -> Verdict:
        """The words that the interval allows."""
        if self.low is None or self.high is None:
            return "one seed: unknown"
        if self.low <= 0 <= self.high:
            return NOISE
        if self.high - self.low < SPREADLESS:
            return "no spread seen: unknown"
        return "better" if self.mean > 0 else "worse"


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the standard deviation over n - 1; None where n is 1, because one value has no spread."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def spread_text(mean: float, std: float | None, single: str = "") -> str:
    """E.g. "63.2 ± 0.8"; without a standard deviation "63.2" followed by `single`."""
    return f"{mean:.1f}{single}" if std is None else f"{mean:.1f} ± {std:.1f}"


def student_t(degrees: int) -> float:
    """Student's t at 97.5 % for so many degrees of freedom, with four decimals.

    Rounded, because cards are checked against their accuracies bit for bit and scipy's last bits depend on its version.
    """
    from scipy.special import stdtrit

    return round(float(stdtrit(degrees, (1 + CONFIDENCE) / 2)), 4)


def paired_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The mean difference of pairs and its 95 % confidence interval.

        d +- t_{n-1} s_d / sqrt(n),   d_i = first_i - second_i

    Args:
        first: one value a seed.
        second: one value a seed, the same seeds in the same order.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, std = mean_and_std(differences)
    if std is None:
        return Interval(mean, None, None)
    half = student_t(len(differences) - 1) * std / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)
