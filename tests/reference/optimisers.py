"""Adam and AdamW of a list of gradients, value by value as their papers write them, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def literal_adam(
    start: Tensor,
    gradients: Sequence[Tensor],
    rates: Sequence[float],
    betas: tuple[float, float],
    weight_decay: float,
    decoupled: bool,
) -> list[Tensor]:
    """Kingma & Ba 2015, Algorithm 1; decoupled: Loshchilov & Hutter 2019, Algorithm 2. Every x."""
    value = start.double()
    mean, square, path = torch.zeros_like(value), torch.zeros_like(value), []
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        gradient = gradient.double()
        if decoupled:
            value = value - rate * weight_decay * value
        else:
            gradient = gradient + weight_decay * value
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        value = value - rate * (mean / (1 - betas[0] ** step)) / (torch.sqrt(square / (1 - betas[1] ** step)) + 1e-8)
        path.append(value)
    return path
