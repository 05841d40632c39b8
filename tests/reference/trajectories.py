"""LatentMTT as Algorithm 3 writes it: a loop over student steps in one graph, nothing reused and nothing freed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tests.reference.mean_features import literal_convnet_features
from torch import Tensor

Forward = Callable[[Sequence[Tensor], Tensor], Tensor]


def literal_trajectory_loss(
    forward: Forward,
    start: Sequence[Tensor],
    target: Sequence[Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    rate: Tensor,
    momentum: float = 0.0,
) -> Tensor:
    """Lines 6 to 11 of Algorithm 3, differentiable with respect to everything in `batches` and the rate.

    Args:
        forward: (parameters, items) -> logits.
        start, target: the expert's parameters at t and at t + M.
        batches: of every student step the items, augmented already, and the probabilities of their classes.
        rate: the student's learning rate.
        momentum: of the student's SGD, as torch.optim.SGD has it (the paper has none).
    """
    student = [parameter.clone().requires_grad_() for parameter in start]
    velocity = [torch.zeros_like(parameter) for parameter in start]
    for items, probabilities in batches:
        predicted = torch.log_softmax(forward(student, items), dim=1)
        cross_entropy = torch.mean(-torch.sum(probabilities * predicted, dim=1))
        gradients = torch.autograd.grad(cross_entropy, student, create_graph=True)
        for index, gradient in enumerate(gradients):
            velocity[index] = momentum * velocity[index] + gradient
            student[index] = student[index] - rate * velocity[index]
    numerator = sum(torch.sum((end - goal) ** 2) for end, goal in zip(student, target, strict=True))
    return numerator / sum(torch.sum((begin - goal) ** 2) for begin, goal in zip(start, target, strict=True))


def literal_convnet(depth: int) -> Forward:
    """The ConvNet written out, its parameters in the order of `named_parameters()`."""

    def forward(parameters: Sequence[Tensor], items: Tensor) -> Tensor:
        *convolutions, weight, bias = parameters
        names = [f"{name}{block}" for block in range(depth) for name in ("weight", "bias", "scale", "shift")]
        features = literal_convnet_features(dict(zip(names, convolutions, strict=True)), depth)(items)
        return features @ weight.T + bias

    return forward
