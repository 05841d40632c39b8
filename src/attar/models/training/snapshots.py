"""Networks between two epochs: what is looked at while they train, and what their training goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import network_shell


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a training depends on, apart from its settings and items; copies, on the CPU.

    Args:
        seeds: of the networks.
        epoch: epochs done.
        parameters: every network's, flattened one after another in the order of `named_parameters()`.
        momentum: SGD's buffers, or AdamW's averages of the gradients, in the same order; None for SGD without momentum
            and before the first step.
        losses: of every network, the mean over the steps since the snapshot before; None before the first step.
        squares: AdamW's averages of the squared gradients, in the same order; None for SGD.
        num_updates: steps that are in AdamW's averages; 0 for SGD.
        buffers: running statistics of batch norm and their counts, flattened in the order of `named_buffers()`, in
            float64, which holds all of them exactly; None without buffers.
    """

    seeds: tuple[int, ...]
    epoch: int
    parameters: Float[Tensor, "networks parameters"]
    momentum: Float[Tensor, "networks parameters"] | None = None
    losses: Float[Tensor, " networks"] | None = None
    squares: Float[Tensor, "networks parameters"] | None = None
    num_updates: int = 0
    buffers: Float[Tensor, "networks buffers"] | None = None

    @classmethod
    def take(
        cls,
        seeds: Sequence[int],
        epoch: int,
        parameters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        losses: Tensor | None,
        buffers: Sequence[Tensor] = (),
    ) -> Snapshot:
        """The present state of one network's parameters, or of stacked ones [networks, ...] with several seeds."""
        count = len(seeds)
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        kept = {
            "momentum": _known(states, "momentum_buffer", count),
            "squares": _known(states, "exp_avg_sq", count),
            "buffers": _flat([buffer.double() for buffer in buffers], count) if len(buffers) else None,
        }
        if kept["squares"] is not None:
            kept["momentum"] = _known(states, "exp_avg", count)
        num_updates = 0 if kept["squares"] is None else int(states[0]["step"])
        return cls(tuple(seeds), epoch, _flat(parameters, count), losses=losses, num_updates=num_updates, **kept)

    def row(self, index: int) -> Snapshot:
        """The snapshot of one network alone."""
        one = slice(index, index + 1)
        momentum, squares, buffers = (
            None if values is None else values[one] for values in (self.momentum, self.squares, self.buffers)
        )
        return replace(
            self,
            seeds=self.seeds[one],
            parameters=self.parameters[one],
            momentum=momentum,
            losses=None,
            squares=squares,
            buffers=buffers,
        )

    def networks(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int, device: torch.device | str
    ) -> list[Network]:
        """The networks as they were, in evaluation mode on `device`.

        Args:
            config: their architecture.
            input_shape: (c, h, w) of what they were trained on.
            num_classes: K.
            device: where they are put.
        """
        made = []
        for index in range(len(self.seeds)):
            network = network_shell(config, input_shape, num_classes).to(dtype=self.parameters.dtype)
            network.to_empty(device=device)
            own = self.row(index)
            _copy(own.parameters, list(network.parameters()))
            if own.buffers is not None:
                _copy(own.buffers, list(network.buffers()))
            made.append(network.eval())
        return made

    def restore(
        self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor] = ()
    ) -> None:
        """Makes parameters, optimiser and buffers, in place, what they were.

        Raises:
            ValueError: a snapshot without the buffers, or of another optimiser.
        """
        adaptive = isinstance(optimizer, torch.optim.AdamW)
        if (self.buffers is None) != (not len(buffers)) or (adaptive and self.momentum is not None) != (
            self.squares is not None
        ):
            raise ValueError("a snapshot of another network or optimiser cannot be gone on from; start anew")
        _copy(self.parameters, parameters)
        if self.buffers is not None:
            _copy(self.buffers, buffers)
        if self.momentum is not None:
            first = "exp_avg" if adaptive else "momentum_buffer"
            _set_state(optimizer, first, self.momentum, parameters)
        if self.squares is not None:
            _set_state(optimizer, "exp_avg_sq", self.squares, parameters)
            for parameter in parameters:
                optimizer.state[parameter]["step"] = torch.tensor(float(self.num_updates))


def _known(states: Sequence[dict[str, Tensor]], name: str, count: int) -> Tensor | None:
    """One value of every parameter's state, flattened; None where a parameter has none."""
    known = [state[name] for state in states if state.get(name) is not None]
    return _flat(known, count) if len(known) == len(states) else None


@torch.no_grad()
def _copy(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, _split(flat, tensors), strict=True):
        tensor.copy_(value)


def _set_state(optimizer: torch.optim.Optimizer, name: str, flat: Tensor, parameters: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, _split(flat, parameters), strict=True):
        optimizer.state[parameter][name] = value.to(parameter.device, copy=True)


def _flat(tensors: Sequence[Tensor], count: int) -> Tensor:
    return torch.cat([tensor.detach().reshape(count, -1) for tensor in tensors], 1).cpu()


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    sizes = [tensor.numel() // len(flat) for tensor in like]
    return [part.reshape(tensor.shape) for part, tensor in zip(flat.split(sizes, 1), like, strict=True)]
