"""Networks between two epochs: what is looked at while they train, and what their training goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from attar.base.files import atomic_path
from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import network_shell

FORMAT = "2"
"""Of snapshots in files; others are not gone on from."""

_ROWS = ("parameters", "momentum", "squares", "buffers")
"""What a snapshot has one row of for every network; all but the first may be absent."""


@dataclass(frozen=True)
class Snapshot:
    """Everything besides settings and items that the rest of a training depends on; copies, on the CPU.

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
        squares = _flat_state(states, "exp_avg_sq", count)
        return cls(
            tuple(seeds),
            epoch,
            _flat(parameters, count),
            _flat_state(states, "momentum_buffer" if squares is None else "exp_avg", count),
            losses,
            squares,
            num_updates=0 if squares is None else int(states[0]["step"]),
            buffers=_flat([buffer.double() for buffer in buffers], count) if len(buffers) else None,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that have one row for each network, without those that are absent."""
        values = {name: getattr(self, name) for name in _ROWS}
        return {name: value for name, value in values.items() if value is not None}

    def row(self, index: int) -> Snapshot:
        """The snapshot of one network alone."""
        one = slice(index, index + 1)
        rows = {name: value[one] for name, value in self.tensors().items()}
        return replace(self, seeds=self.seeds[one], losses=None, **rows)  # type: ignore[arg-type]

    def networks(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int, device: torch.device | str
    ) -> list[Network]:
        """The networks of this architecture as they were, in evaluation mode on `device`."""
        networks = []
        for index in range(len(self.seeds)):
            network = network_shell(config, input_shape, num_classes).to(dtype=self.parameters.dtype)
            network.to_empty(device=device)
            snapshot = self.row(index)
            _copy(snapshot.parameters, list(network.parameters()))
            if snapshot.buffers is not None:
                _copy(snapshot.buffers, list(network.buffers()))
            networks.append(network.eval())
        return networks

    def restore(
        self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor] = ()
    ) -> None:
        """Sets parameters, optimiser and buffers, in place, to what they were.

        Raises:
            ValueError: a snapshot without the buffers, or of another optimiser.
        """
        adaptive = isinstance(optimizer, torch.optim.AdamW)
        other_optimizer = (adaptive and self.momentum is not None) != (self.squares is not None)
        if other_optimizer or (self.buffers is None) != (not len(buffers)):
            raise ValueError("a snapshot of another network or optimiser cannot be gone on from; start anew")
        _copy(self.parameters, parameters)
        if self.buffers is not None:
            _copy(self.buffers, buffers)
        names = {"exp_avg" if adaptive else "momentum_buffer": self.momentum, "exp_avg_sq": self.squares}
        for name, flat in names.items():
            if flat is not None:
                for parameter, value in zip(parameters, _split(flat, parameters), strict=True):
                    optimizer.state[parameter][name] = value.to(parameter.device, copy=True)
        if self.squares is not None:
            for parameter in parameters:
                optimizer.state[parameter]["step"] = torch.tensor(float(self.num_updates))


class SnapshotFile:
    """The snapshot on disk that a training continues from; replaced after every epoch, so a kill costs one at most.

    Args:
        path: of the file.
        num_parameters: of one network.
        num_buffers: values of one network's running statistics.
    """

    def __init__(self, path: Path, num_parameters: int, num_buffers: int = 0) -> None:
        self._path, self._num_parameters, self._num_buffers = path, num_parameters, num_buffers

    def keep(self, snapshot: Snapshot) -> None:
        """Saves a snapshot in place of the one before."""
        from safetensors.torch import save_file

        about = {"format": FORMAT, "seeds": " ".join(map(str, snapshot.seeds))}
        about |= {"epoch": str(snapshot.epoch), "num_updates": str(snapshot.num_updates)}
        tensors = {name: value.contiguous() for name, value in snapshot.tensors().items()}
        with atomic_path(self._path) as temporary:
            save_file(tensors, str(temporary), metadata=about)

    def read(self, num_epochs: int, most_networks: int = 1) -> Snapshot | None:
        """The saved snapshot; None where there is none, a damaged one, or one of more epochs or networks."""
        from safetensors import SafetensorError, safe_open

        try:
            most_bytes = most_networks * (12 * self._num_parameters + 8 * self._num_buffers) + (1 << 16)
            if self._path.stat().st_size > most_bytes:
                return None
            with safe_open(str(self._path), framework="pt") as file:
                about, names = file.metadata() or {}, list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            seeds = tuple(map(int, about["seeds"].split()))
            epoch, num_updates = int(about["epoch"]), int(about["num_updates"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError):
            return None
        fits = about.get("format") == FORMAT and 0 <= epoch <= num_epochs and num_updates >= 0
        if not fits or not 0 < len(seeds) <= most_networks or not self._fit(tensors, len(seeds)):
            return None
        return Snapshot(seeds, epoch, num_updates=num_updates, **tensors)

    def remove(self) -> None:
        """Deletes the file; the training is finished."""
        self._path.unlink(missing_ok=True)

    def _fit(self, tensors: dict[str, Tensor], count: int) -> bool:
        """Whether these are the tensors of so many networks of this architecture, each finite."""
        shapes = dict.fromkeys(_ROWS, ((count, self._num_parameters), torch.float32))
        shapes["buffers"] = ((count, self._num_buffers), torch.float64)
        if "parameters" not in tensors or not tensors.keys() <= shapes.keys():
            return False
        return ("buffers" in tensors) == (self._num_buffers > 0) and all(
            (value.shape, value.dtype) == shapes[name] and bool(value.isfinite().all())
            for name, value in tensors.items()
        )


def _flat_state(states: Sequence[dict[str, Tensor]], name: str, count: int) -> Tensor | None:
    """One value of every parameter's state, flattened; None where a parameter has none."""
    values = [state[name] for state in states if state.get(name) is not None]
    return _flat(values, count) if len(values) == len(states) else None


@torch.no_grad()
def _copy(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, _split(flat, tensors), strict=True):
        tensor.copy_(value)


def _flat(tensors: Sequence[Tensor], count: int) -> Tensor:
    return torch.cat([tensor.detach().reshape(count, -1) for tensor in tensors], 1).cpu()


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    sizes = [tensor.numel() // len(flat) for tensor in like]
    return [part.reshape(tensor.shape) for part, tensor in zip(flat.split(sizes, 1), like, strict=True)]
