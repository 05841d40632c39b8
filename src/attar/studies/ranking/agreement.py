"""Rank correlations of candidates, with bootstrap intervals over candidates and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.evaluation.statistics import CONFIDENCE

DRAWS = 2000
LEAST_DEFINED = 0.5
"""The share of draws that must have a correlation, for an interval to be given."""
MOST_PAIRS = 2**22
"""Pairs of candidates, of all draws, that are compared at a time: 32 MiB a copy."""


@dataclass(frozen=True)
class Draws:
    """`DRAWS` bootstrap samples of candidates and of seeds with replacement, the same for everything compared."""

    candidates: Int64[Tensor, "draws candidates"]
    seeds: Int64[Tensor, "draws seeds"]

    @classmethod
    def of(cls, num_candidates: int, num_seeds: int, seed: int = 0) -> Draws:
        chosen = torch.randint(num_candidates, (DRAWS, num_candidates), generator=generator(seed, "rank candidates"))
        return cls(chosen, torch.randint(num_seeds, (DRAWS, num_seeds), generator=generator(seed, "rank seeds")))

    def means(self, scores: Float[Tensor, "candidates seeds"]) -> Float[Tensor, "draws candidates"]:
        """Each drawn candidate's mean over the drawn seeds."""
        counts = torch.zeros(len(self.seeds), scores.shape[1], dtype=scores.dtype)
        counts.scatter_add_(1, self.seeds, torch.ones_like(self.seeds, dtype=scores.dtype))
        return ((counts @ scores.T) / scores.shape[1]).gather(1, self.candidates)


# scipy's functions take about a millisecond a pair of rankings, and every row of a card has thousands of them.
def spearman(first: Float[Tensor, "... candidates"], second: Float[Tensor, "... candidates"]) -> Tensor:
    """Spearman's rank correlation along the last dimension; NaN where all of one side are equal.

    rho = corr(r(x), r(y)),   r_i = (n + 1) / 2 + 1/2 sum_j sign(x_i - x_j), which gives ties their mean rank
    """
    return _cosine(_signs(first).sum(-1), _signs(second).sum(-1))


def kendall(first: Float[Tensor, "... candidates"], second: Float[Tensor, "... candidates"]) -> Tensor:
    """Kendall's tau-b along the last dimension; NaN where all of one side are equal.

    tau = sum_ij s_ij(x) s_ij(y) / sqrt(sum_ij s_ij(x)^2 sum_ij s_ij(y)^2),   s_ij(x) = sign(x_i - x_j)
    """
    return _cosine(_signs(first).flatten(-2), _signs(second).flatten(-2))


def over_draws(
    measure: Callable[[Tensor, Tensor], Tensor],
    first: Float[Tensor, "draws candidates"],
    second: Float[Tensor, "draws candidates"],
) -> Float[Tensor, " draws"]:
    """A correlation of every draw, of so few draws at a time that their pairs of candidates fit in memory."""
    size = max(1, MOST_PAIRS // first.shape[1] ** 2)
    return torch.cat([measure(*part) for part in zip(first.split(size), second.split(size), strict=True)])


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

    None for scores [candidate][seed] of a single seed, or where a seed tells no candidate from another.
    """
    table = torch.tensor(scores, dtype=torch.float64)
    count = table.shape[1]
    if count < 2:
        return None
    others = (table.sum(1, keepdim=True) - table) / (count - 1)
    rho, tau = (float(measure(table.T, others.T).mean()) for measure in (spearman, kendall))
    return None if rho != rho or tau != tau else (rho, tau)


def _signs(values: Tensor) -> Float[Tensor, "... candidates candidates"]:
    return (values.double().unsqueeze(-1) - values.double().unsqueeze(-2)).sign()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()
