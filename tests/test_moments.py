"""Moments by batch norm's kernel are the moments, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from attar.base.randomness import generator
from attar.methods.objectives.moments import channel_moments


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (2, 7, 1, 1), (1, 4, 3, 3)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_agree_with_the_plain_formulas(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    draw = generator(0, "maps")
    inputs = (torch.randn(shape, generator=draw, dtype=torch.float64) * 3 + 5).contiguous(memory_format=memory_format)
    along = torch.randn(2, shape[1], generator=draw, dtype=torch.float64)
    ours, plain = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    mean, variance = channel_moments(ours)
    of_plain = plain.mean((0, 2, 3)), plain.var((0, 2, 3), correction=0)
    torch.testing.assert_close((mean, variance), of_plain, rtol=1e-12, atol=1e-12)
    (mean @ along[0] + variance @ along[1]).backward()
    (of_plain[0] @ along[0] + of_plain[1] @ along[1]).backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-12, atol=1e-13)


def test_gradients_by_differences() -> None:
    inputs = torch.randn(2, 2, 2, 2, generator=generator(0, "maps"), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(channel_moments, inputs)


def test_a_single_value_has_no_variance() -> None:
    inputs = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).requires_grad_()
    mean, variance = channel_moments(inputs)
    (mean.sum() + variance.sum()).backward()
    assert mean.tolist() == [2.0, -1.0] and variance.tolist() == [0.0, 0.0]
    assert inputs.grad is not None and inputs.grad.flatten().tolist() == [1.0, 1.0]


def test_a_large_mean_takes_no_digits_from_a_small_variance() -> None:
    inputs = torch.randn(50, 2, 8, 8, generator=generator(0, "maps")) * 0.01 + 30
    _, variance = channel_moments(inputs)
    torch.testing.assert_close(variance.double(), inputs.double().var((0, 2, 3), correction=0), rtol=1e-3, atol=0)
