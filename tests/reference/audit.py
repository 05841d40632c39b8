"""Nearest neighbours, shares, ROC curves and likelihood ratios one number at a time, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor


def literal_nearest(queries: Tensor, pool: Tensor) -> tuple[list[float], list[int]]:
    """Root mean squared difference of each query to its nearest in the pool, and its place."""
    distances, places = [], []
    for query in queries.double():
        each = [math.sqrt(sum(((query - other) ** 2).flatten().tolist()) / query.numel()) for other in pool.double()]
        distances.append(min(each))
        places.append(each.index(min(each)))
    return distances, places


def literal_tail(weights: Sequence[int], share: float, observed: int) -> float:
    """Every outcome of all weights, one after another."""
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=len(weights)):
        probability = math.prod(share if counted else 1 - share for counted in outcome)
        if sum(weight for weight, counted in zip(weights, outcome, strict=True) if counted) >= observed:
            total += probability
    return total


def literal_area(members: Sequence[float], others: Sequence[float]) -> float:
    """Every pair of a member and another."""
    won = sum(1.0 if one > other else 0.5 if one == other else 0.0 for one in members for other in others)
    return won / (len(members) * len(others))


def literal_rate(members: Sequence[float], others: Sequence[float], allowed: float) -> float:
    """The most members above any threshold that lets no larger share of the others through."""
    best = 0.0
    for threshold in [*members, *others]:
        if sum(value > threshold for value in others) <= allowed * len(others):
            best = max(best, sum(value > threshold for value in members) / len(members))
    return best


def literal_ratios(phi: Sequence[Sequence[float]], inside: Sequence[Sequence[bool]], target: int) -> list[float | None]:
    """LiRA with variances common to all candidates; None for a candidate that was in all other sets, or in none."""
    others = [row for row in range(len(phi)) if row != target]
    columns = range(len(phi[0]))
    groups = {
        state: [[phi[row][column] for row in others if inside[row][column] == state] for column in columns]
        for state in (True, False)
    }
    deviations = {}
    for state, columns_of in groups.items():
        squares, freedom = 0.0, 0
        for values in columns_of:
            if values:
                mean = sum(values) / len(values)
                squares += sum((value - mean) ** 2 for value in values)
                freedom += len(values) - 1
        deviations[state] = math.sqrt(squares / freedom)
    scores: list[float | None] = []
    for column in columns:
        if not groups[True][column] or not groups[False][column]:
            scores.append(None)
            continue
        logs = {}
        for state in (True, False):
            mean = sum(groups[state][column]) / len(groups[state][column])
            spread = deviations[state]
            away = (phi[target][column] - mean) / spread
            logs[state] = -math.log(spread) - away**2 / 2
        scores.append(logs[True] - logs[False])
    return scores
