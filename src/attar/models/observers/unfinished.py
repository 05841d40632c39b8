"""An observer on its way: after every epoch, what its training goes on from is safe."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attar.base.files import atomic_path
from attar.models.networks.network import Network, num_parameters
from attar.models.training.snapshots import Snapshot

FORMAT = "1"
_OPTIONAL = ("momentum", "squares", "buffers")


class Unfinished:
    """The state file of one training, replaced after every epoch. A kill at any moment costs at most that epoch.

    Args:
        path: of the file.
        network: of the architecture in training.
        seed: of the training.
    """

    def __init__(self, path: Path, network: Network, seed: int) -> None:
        self._path, self._seed = path, seed
        self._num_parameters = num_parameters(network)
        self._num_buffers = sum(buffer.numel() for buffer in network.buffers())

    def keep(self, snapshot: Snapshot) -> None:
        """Make `snapshot` what the training goes on from."""
        from safetensors.torch import save_file

        tensors = {"parameters": snapshot.parameters}
        for name in _OPTIONAL:
            value = getattr(snapshot, name)
            if value is not None:
                tensors[name] = value
        counts = {"format": FORMAT, "epoch": str(snapshot.epoch), "num_updates": str(snapshot.num_updates)}
        with atomic_path(self._path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary), metadata=counts)

    def resume(self, num_epochs: int) -> Snapshot | None:
        """What to go on from; None where there is nothing, or nothing whole, which is then made anew."""
        from safetensors import SafetensorError, safe_open

        try:
            if self._path.stat().st_size > 12 * self._num_parameters + 8 * self._num_buffers + (1 << 16):
                return None
            with safe_open(str(self._path), framework="pt") as file:
                counts, names = file.metadata() or {}, list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            epoch, num_updates = int(counts["epoch"]), int(counts["num_updates"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError):
            return None
        whole = counts.get("format") == FORMAT and 0 < epoch <= num_epochs and num_updates >= 0
        if not whole or not self._fits(tensors):
            return None
        return Snapshot((self._seed,), epoch, num_updates=num_updates, **tensors)

    def remove(self) -> None:
        """The training is finished."""
        self._path.unlink(missing_ok=True)

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether these are the tensors of this architecture, each finite."""
        shapes = dict.fromkeys(("parameters", "momentum", "squares"), ((1, self._num_parameters), torch.float32))
        shapes["buffers"] = ((1, self._num_buffers), torch.float64)
        if "parameters" not in tensors or not tensors.keys() <= shapes.keys():
            return False
        if ("buffers" in tensors) != (self._num_buffers > 0):
            return False
        return all(
            (value.shape, value.dtype) == shapes[name] and bool(value.isfinite().all())
            for name, value in tensors.items()
        )
