"""Sharpness-aware minimisation: the gradient is taken where the loss is highest nearby."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def flatten_gradients(
    parameters: Sequence[Tensor], radius: float, losses: Callable[[], Tensor], num_networks: int = 1
) -> None:
    """Replaces every `.grad`, which holds g = grad L(theta), by the gradient at the peak.

        grad L(theta + rho g / ||g||)

    The norm is over all parameters of a network: with stacked parameters [networks, ...] each network has its own.
    Parameters come back bit for bit.

    Args:
        parameters: the leaves.
        radius: rho, in units of the parameters.
        losses: of the same batch, at the present parameters; one value, or one for each network.
        num_networks: how many are stacked.

    Source: Foret et al. 2021 (SAM), equation 2 and Algorithm 1; FTD (Du et al. 2023) trains its experts so.
    Deviation: FTD's code takes GSAM (Zhuang et al. 2022), which also steps against a share of g's part that is
        orthogonal to the peak's gradient.
    """
    here = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        squares = [_gradient(parameter).reshape(num_networks, -1).square().sum(1) for parameter in parameters]
        norms = torch.stack(squares).sum(0).sqrt()
        scales = radius / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        for parameter in parameters:
            rows = parameter.view(num_networks, -1)
            rows.addcmul_(_gradient(parameter).reshape(num_networks, -1), scales.unsqueeze(1))
            parameter.grad = None
    losses().sum().backward()
    with torch.no_grad():
        for parameter, value in zip(parameters, here, strict=True):
            parameter.copy_(value)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
