"""Experts on their way to disk: after every epoch they are safe."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from attar.models.experts.buffer import ExpertBuffer, floats_to_bytes
from attar.models.training.snapshots import Snapshot, SnapshotFile


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
        self._state = _state_file(buffer, experts.start)

    def resume(self, seeds: tuple[int, ...]) -> Snapshot | None:
        """The snapshot to continue from; None where there is none, or a damaged one: the group then starts anew."""
        snapshot = self._state.read(self.buffer.num_epochs, len(self.experts))
        if snapshot is None or snapshot.seeds != seeds:
            return None
        return snapshot if all(self._has_rows(expert, snapshot.epoch) for expert in self.experts) else None

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of all the group's networks, so that training can go on from it."""
        self.write(snapshot)
        self._state.keep(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Keep the rows and losses of a snapshot; there is no loss of epoch 0."""
        layout = self.buffer.layout
        for index, expert in enumerate(self.experts):
            with self._part_path(expert).open("r+b" if snapshot.epoch else "wb") as file:
                if snapshot.losses is None:
                    file.write(layout.header + bytes(layout.figures_bytes))
                else:
                    file.seek(layout.loss_start(snapshot.epoch))
                    file.write(floats_to_bytes(snapshot.losses[index]))
                file.seek(layout.row_start(snapshot.epoch))
                file.write(layout.row(snapshot.parameters[index]))
                _to_disk(file.fileno())

    def finish(self, accuracies: list[float]) -> None:
        """Gives the complete files their names. The first expert comes last, because the state bears its number."""
        layout = self.buffer.layout
        for expert, accuracy in reversed(list(zip(self.experts, accuracies, strict=True))):
            part = self._part_path(expert)
            if not part.exists():  # named before this process was killed
                continue
            with part.open("r+b") as file:
                file.seek(len(layout.header))
                file.write(floats_to_bytes(torch.tensor([accuracy])))
                file.truncate(layout.num_bytes)
                _to_disk(file.fileno())
            part.replace(self.buffer.path(expert))
        self._state.remove()

    def _has_rows(self, expert: int, epoch: int) -> bool:
        """Whether a part has all rows up to `epoch`, or is already whole."""
        layout = self.buffer.layout
        if epoch == layout.num_epochs and self.buffer.has(expert):
            return True
        try:
            with self._part_path(expert).open("rb") as file:
                return file.read(len(layout.header)) == layout.header and file.seek(0, 2) >= layout.row_start(epoch + 1)
        except OSError:
            return False

    def _part_path(self, expert: int) -> Path:
        return self.buffer.path(expert).with_suffix(".part")


def remove_old_states(buffer: ExpertBuffer) -> None:
    """Remove the states of experts that are whole, left by a kill in their last moment."""
    for state in buffer.folder.glob("expert-*.state"):
        if state.with_suffix(".safetensors").exists():
            state.unlink(missing_ok=True)


def begun_group_size(buffer: ExpertBuffer, first: int) -> int | None:
    """How many experts were being trained together from `first` on when their process ended; None if none were."""
    snapshot = _state_file(buffer, first).read(buffer.num_epochs, buffer.manifest.group_size)
    return None if snapshot is None else len(snapshot.seeds)


def _state_file(buffer: ExpertBuffer, first: int) -> SnapshotFile:
    return SnapshotFile(buffer.path(first).with_suffix(".state"), buffer.layout.num_parameters)


def _to_disk(handle: int) -> None:
    os.fsync(handle)
