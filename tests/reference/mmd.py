"""The squared kernel MMD as the mathematics writes it: sums over pairs, one class after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def literal_kernel(one: Tensor, two: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Of two feature vectors [F]: a sum of Gaussian kernels."""
    squared_distance = torch.sum((one - two) ** 2)
    value = torch.zeros((), dtype=one.dtype)
    for sigma in bandwidths:
        value = value + torch.exp(-squared_distance / (2 * sigma**2))
    return value


def literal_pair_sum(one: Tensor, two: Tensor, bandwidths: Sequence[float], skip_equal: bool) -> Tensor:
    """Sum of the kernel over i and j, with or without i = j."""
    total = torch.zeros((), dtype=one.dtype)
    for i in range(len(one)):
        for j in range(len(two)):
            if not (skip_equal and i == j):
                total = total + literal_kernel(one[i], two[j], bandwidths)
    return total


def literal_squared_mmd(real: Tensor, synthetic: Tensor, bandwidths: Sequence[float], estimator: str) -> Tensor:
    """Of one class: real [n, F] and synthetic [m, F]; n and m at least 2 where the estimator is unbiased."""
    n, m = len(real), len(synthetic)
    across = literal_pair_sum(real, synthetic, bandwidths, False) / (n * m)
    if estimator == "biased":
        within_real = literal_pair_sum(real, real, bandwidths, False) / (n * n)
        within_synthetic = literal_pair_sum(synthetic, synthetic, bandwidths, False) / (m * m)
    else:
        within_real = literal_pair_sum(real, real, bandwidths, True) / (n * (n - 1))
        within_synthetic = literal_pair_sum(synthetic, synthetic, bandwidths, True) / (m * (m - 1))
    return within_real - 2 * across + within_synthetic


def printed_squared_mmd(real: Tensor, synthetic: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """D3's Eq. 4 with the factors that are printed: binomials below sums over i != j, and 1/(mn)."""
    n, m = len(real), len(synthetic)
    within_real = literal_pair_sum(real, real, bandwidths, True) / (n * (n - 1) / 2)
    within_synthetic = literal_pair_sum(synthetic, synthetic, bandwidths, True) / (m * (m - 1) / 2)
    across = literal_pair_sum(real, synthetic, bandwidths, False) / (m * n)
    return within_real - across + within_synthetic


def literal_loss(
    real_of_class: Sequence[Tensor], synthetic_of_class: Sequence[Tensor], bandwidths: Sequence[float], estimator: str
) -> Tensor:
    """Sum over classes (D3, Eq. 5)."""
    loss = torch.zeros((), dtype=synthetic_of_class[0].dtype)
    for real, synthetic in zip(real_of_class, synthetic_of_class, strict=True):
        loss = loss + literal_squared_mmd(real, synthetic, bandwidths, estimator)
    return loss


def literal_mean_squared_distance(features_of_class: Sequence[Tensor]) -> float:
    """Over pairs i != j of a class, then over classes of more than one item."""
    means = []
    for features in features_of_class:
        n, total = len(features), 0.0
        for i in range(n):
            for j in range(n):
                total += float(torch.sum((features[i] - features[j]) ** 2))
        if n > 1:
            means.append(total / (n * (n - 1)))
    return sum(means) / len(means)
