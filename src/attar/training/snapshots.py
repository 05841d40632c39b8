"""Networks between two epochs: what is looked at while they train, and what their training goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.shapes import Float


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a training with SGD depends on, apart from its settings and items; copies, on the CPU.

    Args:
        seeds: of the networks.
        epoch: epochs done.
        parameters: every network's, flattened one after another in the order of `named_parameters()`.
        momentum: SGD's buffers in the same order; None without momentum and before the first step.
        losses: of every network, the mean over the steps of the epoch just done; None before the first.
    """

    seeds: tuple[int, ...]
    epoch: int
    parameters: Float[Tensor, "networks parameters"]
    momentum: Float[Tensor, "networks parameters"] | None = None
    losses: Float[Tensor, " networks"] | None = None

    @classmethod
    def take(
        cls,
        seeds: Sequence[int],
        epoch: int,
        parameters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        losses: Tensor | None,
    ) -> Snapshot:
        """The present state of one network's parameters, or of stacked ones [networks, ...] with several seeds."""
        buffers = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
        known = [buffer for buffer in buffers if buffer is not None]
        count = len(seeds)
        momentum = _flat(known, count) if len(known) == len(parameters) else None
        return cls(tuple(seeds), epoch, _flat(parameters, count), momentum, losses)

    def row(self, index: int) -> Snapshot:
        """The snapshot of one network alone."""
        one = slice(index, index + 1)
        momentum = None if self.momentum is None else self.momentum[one]
        return Snapshot(self.seeds[one], self.epoch, self.parameters[one], momentum)

    def restore(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Makes parameters and optimiser, in place, what they were."""
        with torch.no_grad():
            for parameter, value in zip(parameters, _split(self.parameters, parameters), strict=True):
                parameter.copy_(value)
        if self.momentum is not None:
            for parameter, value in zip(parameters, _split(self.momentum, parameters), strict=True):
                optimizer.state[parameter]["momentum_buffer"] = value.to(parameter.device, copy=True)


def _flat(tensors: Sequence[Tensor], count: int) -> Tensor:
    return torch.cat([tensor.detach().reshape(count, -1) for tensor in tensors], 1).cpu()


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    sizes = [tensor.numel() // len(flat) for tensor in like]
    return [part.reshape(tensor.shape) for part, tensor in zip(flat.split(sizes, 1), like, strict=True)]
