"""Experts on their way to disk: after every epoch they are safe."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from attar.base.files import atomic_path
from attar.base.shapes import Float
from attar.models.experts.buffer import ExpertBuffer
from attar.models.experts.layout import floats_to_bytes
from attar.models.training.snapshots import Snapshot

STATE_FORMAT = "1"


class GrowingGroup:
    """Experts that are trained together, written row by row and renamed when they are whole.

    expert-00003.part is the file to be, growing by one row an epoch; expert-00003.state, replaced after the rows are on
    disk, holds what training goes on from. A kill at any moment costs at most the epoch in hand.

    Args:
        buffer: where they belong.
        experts: their numbers, one after another; all claimed by this process.
    """

    def __init__(self, buffer: ExpertBuffer, experts: range) -> None:
        self.buffer, self.experts = buffer, experts
        self._state = _state_path(buffer, experts.start)
        self._losses = torch.zeros(len(experts), 0)

    def resume(self, seeds: tuple[int, ...]) -> Snapshot | None:
        """What to go on from; None where there is nothing, or nothing whole, which is then made anew."""
        found = _read_state(self._state, self.buffer, len(self.experts))
        if found is None or not all(self._has_rows(expert, int(found["losses"].shape[1])) for expert in self.experts):
            return None
        self._losses = found["losses"]
        return Snapshot(seeds, self._losses.shape[1], found["parameters"], found.get("momentum"))

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of all the group's networks."""
        from safetensors.torch import save_file

        layout = self.buffer.layout
        for expert, parameters in zip(self.experts, snapshot.parameters, strict=True):
            with _part_path(self.buffer, expert).open("r+b" if snapshot.epoch else "wb") as file:
                if not snapshot.epoch:
                    file.write(layout.header + bytes(layout.figures_bytes))
                file.seek(layout.row_start(snapshot.epoch))
                file.write(layout.row(parameters))
                _to_disk(file.fileno())
        if snapshot.losses is not None:
            self._losses = torch.cat([self._losses, snapshot.losses.float().unsqueeze(1)], 1)
        state = {"parameters": snapshot.parameters.contiguous(), "losses": self._losses.contiguous()}
        if snapshot.momentum is not None:
            state["momentum"] = snapshot.momentum.contiguous()
        with atomic_path(self._state) as temporary:
            save_file(state, str(temporary), metadata={"format": STATE_FORMAT})

    def complete(
        self, rows: Float[Tensor, "epochs experts parameters"], losses: Float[Tensor, "experts epochs"]
    ) -> None:
        """Keep the rows that are still missing and the mean losses of their epochs, all at once; then `finish`."""
        layout = self.buffer.layout
        first = layout.num_rows - len(rows)
        for expert, own in zip(self.experts, rows.unbind(1), strict=True):
            with _part_path(self.buffer, expert).open("r+b" if first else "wb") as file:
                if not first:
                    file.write(layout.header + bytes(layout.figures_bytes))
                file.seek(layout.row_start(first))
                for row in own:
                    file.write(layout.row(row))
                _to_disk(file.fileno())
        self._losses = torch.cat([self._losses, losses], 1)

    @property
    def last_losses(self) -> list[float]:
        """The mean loss of the last epoch, of every expert."""
        return self._losses[:, -1].tolist()

    def finish(self, accuracies: list[float]) -> None:
        """All epochs are kept: the files get their names, the first expert's last, for the state bears its number."""
        layout = self.buffer.layout
        figures = torch.cat([torch.tensor(accuracies).unsqueeze(1), self._losses], 1)
        for expert, row in reversed(list(zip(self.experts, figures, strict=True))):
            part = _part_path(self.buffer, expert)
            if not part.exists():  # named before this process was killed
                continue
            with part.open("r+b") as file:
                file.seek(len(layout.header))
                file.write(floats_to_bytes(row))
                file.truncate(layout.num_bytes)
                _to_disk(file.fileno())
            part.replace(self.buffer.path(expert))
        self._state.unlink(missing_ok=True)

    def _has_rows(self, expert: int, epoch: int) -> bool:
        """Whether a part has all rows up to `epoch`, or is already whole."""
        layout = self.buffer.layout
        if epoch == layout.num_epochs and self.buffer.has(expert):
            return True
        try:
            with _part_path(self.buffer, expert).open("rb") as file:
                return file.read(len(layout.header)) == layout.header and file.seek(0, 2) >= layout.row_start(epoch + 1)
        except OSError:
            return False


def remove_old_states(buffer: ExpertBuffer) -> None:
    """Remove the states of experts that are whole, left by a kill in their last moment."""
    for state in buffer.folder.glob("expert-*.state"):
        if state.with_suffix(".safetensors").exists():
            state.unlink(missing_ok=True)


def begun_group_size(buffer: ExpertBuffer, first: int) -> int | None:
    """How many experts were being trained together from `first` on when their process ended; None if none were."""
    found = _read_state(_state_path(buffer, first), buffer, None)
    return None if found is None else len(found["parameters"])


def _part_path(buffer: ExpertBuffer, expert: int) -> Path:
    return buffer.path(expert).with_suffix(".part")


def _state_path(buffer: ExpertBuffer, first: int) -> Path:
    return buffer.path(first).with_suffix(".state")


def _read_state(path: Path, buffer: ExpertBuffer, count: int | None) -> dict[str, Tensor] | None:
    """The tensors of a whole state for `count` networks; None for anything else: a damaged state is no state."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    layout = buffer.layout
    per_network = 4 * (2 * layout.num_parameters + layout.num_epochs)
    try:
        if path.stat().st_size > (count or buffer.manifest.group_size) * per_network + (1 << 16):
            return None
        found = load_file(str(path))
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError):
        return None
    parameters, losses = found.get("parameters"), found.get("losses")
    if parameters is None or losses is None or not found.keys() <= {"parameters", "losses", "momentum"}:
        return None
    rows = count or len(parameters)
    shape = (rows, layout.num_parameters)
    whole = all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in found.values())
    whole &= parameters.shape == shape and found.get("momentum", parameters).shape == shape
    whole &= losses.ndim == 2 and len(losses) == rows and losses.shape[1] <= layout.num_epochs
    return found if whole and rows else None


def _to_disk(handle: int) -> None:
    os.fsync(handle)
