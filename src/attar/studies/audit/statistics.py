"""Shares with their intervals, a test for neighbours that are shared, and what a ROC curve says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attar.base.shapes import Float
from attar.evaluation.statistics import CONFIDENCE


def binomial_interval(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of a share.

        low = B(a / 2; k, n - k + 1),   high = B(1 - a / 2; k + 1, n - k),   a = 1 - 0.95, B the quantile of Beta

    Args:
        hits: k of
        trials: n, at least 1.

    Source: Clopper & Pearson 1934.
    """
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def tail_probability(weights: Sequence[int], share: float, observed: int) -> float:
    """The probability that a sum of weights reaches what was observed, when each counts with one probability.

        P(sum_u w_u b_u >= observed),   b_u independent, P(b_u = 1) = share

    Exact: the binomial law of each distinct weight's number, one convolved with the other.

    Args:
        weights: w_u, positive.
        share: in (0, 1).
        observed: the sum that was seen.
    """
    from scipy.stats import binom

    law = np.ones(1)
    for weight, number in sorted(Counter(weights).items()):
        spaced = np.zeros(weight * number + 1)
        spaced[::weight] = binom.pmf(np.arange(number + 1), number, share)
        law = np.convolve(law, spaced)
    return min(1.0, float(law[max(0, observed) :].sum()))


def quantiles_of_others(values: Float[Tensor, " values"], share: float) -> Float[Tensor, " values"]:
    """For each value the quantile of all others, as `torch.quantile` has it; its own for a single one.

    Args:
        values: [N], N at least 1.
        share: in [0, 1].
    """
    if len(values) == 1:
        return values.clone()
    ordered, places = values.sort()
    ranks = torch.empty_like(places)
    ranks[places] = torch.arange(len(values))
    position = share * (len(values) - 2)
    low = math.floor(position)
    # The k-th smallest of the others is the k-th of all before the value's own rank, and the next one from there on.
    below, above = (ordered[k + (ranks <= k).long()] for k in (low, min(low + 1, len(values) - 2)))
    return torch.lerp(below, above, position - low)


def roc_area(members: Tensor, others: Tensor) -> float:
    """The probability that a member scores higher than another image; a tie counts half.

    Args:
        members: scores [P], P at least 1.
        others: scores [N], N at least 1.

    Source: Mann & Whitney 1947; Hanley & McNeil 1982 for the area under the curve.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members.double().numpy(), others.double().numpy()]))
    count = len(members)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(others)))


def true_positive_rate(members: Tensor, others: Tensor, false_positive_rate: float) -> float | None:
    """The share of members found by the lowest threshold at which no larger share of the others is taken for one.

    Args:
        members, others: scores [P], [N]; above the threshold means "member".
        false_positive_rate: the share f that is allowed.

    Returns:
        None where there are fewer than 1 / f others: that rate cannot be told from 0.
    """
    allowed = math.floor(false_positive_rate * len(others) + 1e-9)
    if not allowed:
        return None
    threshold = others.sort(descending=True).values[allowed]
    return float((members > threshold).double().mean())
