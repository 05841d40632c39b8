"""DC's matching as its paper and code have it: class by class, one graph through the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def row_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of each output's row, summed; vectors count nothing."""
    if a.ndim == 1:
        return a.new_zeros(())
    total = a.new_zeros(())
    for one, two in zip(a, b, strict=True):
        one, two = one.flatten(), two.flatten()
        total = total + 1 - (one * two).sum() / (one.norm() * two.norm() + 1e-6)
    return total


def mean_squares(a: Tensor, b: Tensor) -> Tensor:
    """IDC: convolutions alone."""
    return ((a - b) ** 2).sum() if a.ndim == 4 else a.new_zeros(())


def absolutes(a: Tensor, b: Tensor) -> Tensor:
    """Every parameter."""
    return (a - b).abs().sum()


def literal_matching(
    network: nn.Module,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    targets: Sequence[Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    augment: Callable[[Tensor], Tensor] = lambda items: items,
) -> Tensor:
    """The loss of one matching, differentiable with respect to the synthetic items and their targets.

    Args:
        network: with its parameters as they are.
        real: each class's real items.
        synthetic: each class's synthetic items.
        targets: each class's probabilities [n, K].
        distance: of two gradients of one parameter.
        augment: the same for all.
    """
    parameters = list(network.parameters())
    loss = torch.zeros(())
    for label, (items, own, wanted) in enumerate(zip(real, synthetic, targets, strict=True)):
        labels = torch.full((len(items),), label)
        of_real = torch.autograd.grad(F.cross_entropy(network(augment(items)), labels), parameters)
        own_loss = F.cross_entropy(network(augment(own)), wanted)
        of_own = torch.autograd.grad(own_loss, parameters, create_graph=True)
        for a, b in zip(of_own, of_real, strict=True):
            loss = loss + distance(a, b)
    return loss
