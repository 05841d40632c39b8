"""Training a ConvNet step by step with everything written out, in float64: the oracle of attar.models.training.loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convnet_logits(parameters: dict[str, Tensor], inputs: Tensor, depth: int) -> Tensor:
    """The ConvNet with instance norm, ReLU and average pooling, norm and pooling spelled out."""
    maps = inputs
    for block in range(depth):
        name = f"blocks.{block}."
        maps = F.conv2d(maps, parameters[name + "convolution.weight"], parameters[name + "convolution.bias"], padding=1)
        mean = maps.mean((2, 3), keepdim=True)
        variance = ((maps - mean) ** 2).mean((2, 3), keepdim=True)
        maps = (maps - mean) / (variance + 1e-5).sqrt()
        maps = maps * parameters[name + "norm.weight"].view(1, -1, 1, 1)
        maps = (maps + parameters[name + "norm.bias"].view(1, -1, 1, 1)).clamp_min(0)
        maps = (maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2] + maps[:, :, 1::2, 1::2]) / 4
    return maps.reshape(len(maps), -1) @ parameters["classifier.weight"].T + parameters["classifier.bias"]


def train(
    parameters: dict[str, Tensor],
    depth: int,
    batches: list[tuple[Tensor, Tensor]],
    rates: list[float],
    restarts: set[int],
    momentum: float,
    weight_decay: float,
) -> dict[str, Tensor]:
    """Stochastic gradient descent with momentum; before the steps in `restarts` the velocity is forgotten."""
    values = {name: value.detach().double() for name, value in parameters.items()}
    velocity = {name: torch.zeros_like(value) for name, value in values.items()}
    for step, ((inputs, labels), rate) in enumerate(zip(batches, rates, strict=True)):
        if step in restarts:
            velocity = {name: torch.zeros_like(value) for name, value in values.items()}
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        logits = convnet_logits(leaves, inputs.double(), depth)
        shares = logits.exp() / logits.exp().sum(1, keepdim=True)
        loss = -shares[torch.arange(len(labels)), labels].log().mean()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for name, gradient in zip(values, gradients, strict=True):
            velocity[name] = momentum * velocity[name] + gradient + weight_decay * values[name]
            values[name] = values[name] - rate * velocity[name]
    return values
