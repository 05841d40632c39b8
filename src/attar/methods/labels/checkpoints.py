"""Region labels of a run that is not finished, which the next one need not ask its observer for again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.base.files import atomic_path

# The most labelling that a kill can cost.
KEPT_SECONDS = 30.0

Labels = dict[str, Tensor]


class KeptEpochs:
    """Stored labels, epoch by epoch, in files of a folder; each file holds the epochs of half a minute.

    A file that belongs to other labels, is damaged, or does not follow on the ones before it counts as absent. At the
    end of a `with` block the epochs that were added in it are written, whatever ends it.

    Args:
        folder: created with the first file; None keeps nothing.
        key: of everything that the labels depend on.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder, self.key = folder, key
        self._first = 0
        self._pending: list[Labels] = []
        self._written = time.monotonic()

    def read_into(self, labels: Labels) -> int:
        """Fill labels [E, M, ...] with the epochs that are in files, from the first on; their number."""
        num_epochs = len(next(iter(labels.values())))
        self._first = 0
        while self._first < num_epochs and (epochs := self._read(self._first, labels)):
            count = min(num_epochs - self._first, min(map(len, epochs.values())))
            for name, tensor in epochs.items():
                labels[name][self._first : self._first + count] = tensor[:count]
            self._first += count
        return self._first

    def add(self, labels: Labels) -> None:
        """One more epoch."""
        self._pending.append(labels)
        if time.monotonic() - self._written > KEPT_SECONDS:
            self._write()

    def __enter__(self) -> KeptEpochs:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def _write(self) -> None:
        if self.folder is not None and self._pending:
            self.folder.mkdir(parents=True, exist_ok=True)
            epochs = {name: torch.stack([labels[name] for labels in self._pending]) for name in self._pending[0]}
            with atomic_path(self._path(self._first)) as temporary:
                save_file(epochs, str(temporary), metadata={"key": self.key})
        self._first += len(self._pending)
        self._pending = []
        self._written = time.monotonic()

    def _path(self, first: int) -> Path:
        assert self.folder is not None
        return self.folder / f"labels-{first:07d}.safetensors"

    def _read(self, first: int, labels: Labels) -> Labels:
        """The epochs of the file that begins with epoch `first`; {} where it counts as absent."""
        if self.folder is None:
            return {}
        try:
            with safe_open(str(self._path(first)), framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return {}
                epochs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return {}
        fits = _without_epochs(epochs) == _without_epochs(labels) and min(map(len, epochs.values())) > 0
        return epochs if fits else {}


def _without_epochs(labels: Labels) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in labels.items()}


def forget_kept(folder: Path) -> None:
    """Delete what all `KeptEpochs` left below a folder; then it and its parent, where they are empty."""
    for path in folder.glob("*/labels-*.safetensors"):
        path.unlink(missing_ok=True)
    for place in (*folder.glob("*"), folder, folder.parent):
        with suppress(OSError):  # it is not empty, or not there
            place.rmdir()
