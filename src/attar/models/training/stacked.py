"""Networks of one architecture trained together: their parameters are stacked and one call runs them all."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from attar.models.networks.network import Network
from attar.models.training.acceleration import Acceleration
from attar.models.training.items import Batch, concatenated, item_losses


def is_stackable(network: nn.Module) -> bool:
    """Whether a network has no batch norm, whose running statistics change in place; vmap does not allow that."""
    return not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


class StackedNetworks:
    """Copies of one architecture without batch norm as one set of stacked parameters [S, ...].

    Of the acceleration, only the precision is used: stacked networks run uncompiled.
    """

    def __init__(self, copies: Sequence[Network], acceleration: Acceleration) -> None:
        self._copies = list(copies)
        self._shell = deepcopy(self._copies[0]).to("meta")
        self._bfloat16 = acceleration.precision == "bfloat16"
        stacked, _ = torch.func.stack_module_state(self._copies)
        self._stacked: dict[str, Tensor] = {name: tensor.detach().requires_grad_() for name, tensor in stacked.items()}

    def parameters(self) -> list[Tensor]:
        """The leaves that are optimised."""
        return list(self._stacked.values())

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """Each network's mean loss on its own batch, [S]."""
        batch = concatenated(batches)
        inputs = batch.inputs.unflatten(0, (len(self._copies), -1))

        def call(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return torch.func.functional_call(self._shell, parameters, (inputs,))

        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = torch.vmap(call)(self._stacked, inputs).flatten(0, 1)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        return item_losses(logits, batch).unflatten(0, (len(self._copies), -1)).mean(1)

    def networks(self) -> list[Network]:
        """The copies, with the trained values."""
        for index, network in enumerate(self._copies):
            network.load_state_dict({name: tensor[index] for name, tensor in self._stacked.items()})
        return self._copies
