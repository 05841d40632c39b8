"""Region labels of a run that is not finished: what a stopped one need not ask its observer again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from attar.base.files import atomic_path

KEPT_SECONDS = 30.0
"""The most labelling that a kill can cost."""

Labels = dict[str, Tensor]


class KeptEpochs:
    """Stored labels, epoch by epoch, in files of a folder; each file holds the epochs of half a minute.

    A file that belongs to other labels, is damaged, or does not follow on the ones before it counts as absent.

    Args:
        folder: made when the first file is written.
        key: of everything that the labels depend on.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self._first = 0
        self._pending: list[Labels] = []
        self._written = time.monotonic()

    def read(self) -> list[Labels]:
        """The epochs that are there, from the first."""
        found: list[Labels] = []
        while (path := self._path(len(found))).exists():
            epochs = self._read(path)
            if not epochs:
                break
            found += epochs
        self._first = len(found)
        return found

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Whatever ends the block, the epochs that were added in it are written."""
        try:
            yield
        finally:
            self.write()

    def add(self, labels: Labels) -> None:
        """One more epoch."""
        self._pending.append(labels)
        if time.monotonic() - self._written > KEPT_SECONDS:
            self.write()

    def write(self) -> None:
        """The epochs that are not in a file yet."""
        from safetensors.torch import save_file

        if not self._pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        stacked = {name: torch.stack([each[name] for each in self._pending]) for name in self._pending[0]}
        with atomic_path(self._path(self._first)) as temporary:
            save_file(stacked, str(temporary), metadata={"key": self.key})
        self._first += len(self._pending)
        self._pending = []
        self._written = time.monotonic()

    def _path(self, first: int) -> Path:
        return self.folder / f"labels-{first:07d}.safetensors"

    def _read(self, path: Path) -> list[Labels]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return []
                stacked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return []
        count = min((len(tensor) for tensor in stacked.values()), default=0)
        return [{name: tensor[epoch] for name, tensor in stacked.items()} for epoch in range(count)]


def forget_kept(folder: Path) -> None:
    """Delete what all `KeptEpochs` left below a folder; then it and its parent, where they are empty."""
    for path in folder.glob("*/labels-*.safetensors"):
        path.unlink(missing_ok=True)
    for place in (*folder.glob("*"), folder, folder.parent):
        with suppress(OSError):  # it is not empty, or not there
            place.rmdir()
