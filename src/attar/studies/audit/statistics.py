"""Exact intervals of shares, and a test of neighbours that distilled images share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from attar.base.shapes import Float
from attar.evaluation.statistics import CONFIDENCE


def binomial_interval(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of a share of `hits` in `trials`, of which there is at least one.

    Source: Clopper & Pearson 1934.
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(low), float(high)


def tail_probability(weights: Sequence[int], share: float, observed: int) -> float:
    """The probability that a sum of weights reaches what was observed, when each counts with one probability.

        P(sum_u w_u b_u >= observed),   b_u independent, P(b_u = 1) = share

    Exact: the binomial law of the number of each distinct weight, convolved with those of the other weights.

    Args:
        weights: w_u, positive.
        share: in (0, 1).
        observed: the sum that was observed, at least 0.
    """
    from scipy.stats import binom

    law = np.ones(1)
    for weight, number in sorted(Counter(weights).items()):
        spaced = np.zeros(weight * number + 1)
        spaced[::weight] = binom.pmf(np.arange(number + 1), number, share)
        law = np.convolve(law, spaced)
    return min(1.0, float(law[observed:].sum()))


def quantiles_of_others(values: Float[torch.Tensor, " values"], share: float) -> Float[torch.Tensor, " values"]:
    """For each value the quantile of all others, in O(N^2) memory; for a single value itself."""
    count = len(values)
    if count == 1:
        return values.clone()
    others = values.expand(count, count)[~torch.eye(count, dtype=torch.bool)]
    return others.view(count, count - 1).quantile(share, dim=1)
