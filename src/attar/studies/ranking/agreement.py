"""Rank correlations of candidates, with bootstrap intervals over candidates and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.evaluation.statistics import CONFIDENCE

DRAWS = 2000
LEAST_DEFINED = 0.5
"""The share of draws that must have a correlation, for an interval to be given."""
MOST_PAIRS = 2**22
"""Pairs of candidates, of all draws, that are compared at a time: 32 MiB a copy."""


@dataclass(frozen=True)
class Draws:
    """Bootstrap samples, the same for everything that is compared.

    Args:
        candidates: int64 [D, C], drawn with replacement.
        seeds: int64 [D, S], drawn with replacement.
    """

    candidates: Tensor
    seeds: Tensor

    @classmethod
    def of(cls, num_candidates: int, num_seeds: int, seed: int = 0) -> Draws:
        """`DRAWS` of them."""
        chosen = torch.randint(num_candidates, (DRAWS, num_candidates), generator=generator(seed, "rank candidates"))
        return cls(chosen, torch.randint(num_seeds, (DRAWS, num_seeds), generator=generator(seed, "rank seeds")))

    def means(self, scores: Float[Tensor, "candidates seeds"]) -> Float[Tensor, "draws candidates"]:
        """Each drawn candidate's mean over the drawn seeds."""
        counts = torch.zeros(len(self.seeds), scores.shape[1], dtype=scores.dtype)
        counts.scatter_add_(1, self.seeds, torch.ones_like(self.seeds, dtype=scores.dtype))
        return ((counts @ scores.T) / scores.shape[1]).gather(1, self.candidates)


def spearman(first: Float[Tensor, "... candidates"], second: Float[Tensor, "... candidates"]) -> Tensor:
    """Spearman's rank correlation along the last dimension; NaN where all of one side are equal.

    rho = corr(r(x), r(y)),   r_i = (n + 1) / 2 + 1/2 sum_j sign(x_i - x_j), which gives ties their mean rank
    """
    ranks = [_signs(values).sum(-1) for values in (first, second)]  # twice the ranks, less n + 1: a sum of zero
    return (ranks[0] * ranks[1]).sum(-1) / (ranks[0].square().sum(-1) * ranks[1].square().sum(-1)).sqrt()


def kendall(first: Float[Tensor, "... candidates"], second: Float[Tensor, "... candidates"]) -> Tensor:
    """Kendall's tau-b along the last dimension; NaN where all of one side are equal.

    tau = sum_ij s_ij(x) s_ij(y) / sqrt(sum_ij s_ij(x)^2 sum_ij s_ij(y)^2),   s_ij(x) = sign(x_i - x_j)
    """
    one, other = _signs(first), _signs(second)
    pairs = [one.square().sum((-2, -1)), other.square().sum((-2, -1))]
    return (one * other).sum((-2, -1)) / (pairs[0] * pairs[1]).sqrt()


def over_draws(
    measure: Callable[[Tensor, Tensor], Tensor],
    first: Float[Tensor, "draws candidates"],
    second: Float[Tensor, "draws candidates"],
) -> Float[Tensor, " draws"]:
    """A correlation of every draw, of so few draws at a time that their pairs of candidates fit in memory."""
    some = max(1, MOST_PAIRS // first.shape[1] ** 2)
    return torch.cat([measure(*part) for part in zip(first.split(some), second.split(some), strict=True)])


def interval(values: Float[Tensor, " draws"]) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of bootstrap values; None where fewer than half of them are defined."""
    defined = values[values.isfinite()]
    if len(defined) < LEAST_DEFINED * len(values):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = defined.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def against_itself(scores: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """How well one seed ranks candidates as all others together do: Spearman and Kendall, means over the seeds.

    Args:
        scores: [candidate][seed].

    Returns:
        None for a single seed, or where a seed tells no candidate from another.
    """
    table = torch.tensor(scores, dtype=torch.float64)
    count = table.shape[1]
    if count < 2:
        return None
    others = (table.sum(1, keepdim=True) - table) / (count - 1)
    found = [float(measure(table.T, others.T).mean()) for measure in (spearman, kendall)]
    return None if any(value != value for value in found) else (found[0], found[1])


def _signs(values: Tensor) -> Tensor:
    """[..., C, C]"""
    return (values.double().unsqueeze(-1) - values.double().unsqueeze(-2)).sign()
