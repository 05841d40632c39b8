"""Region labels of a run that is not finished, which the next one need not ask its observer for again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.base.files import atomic_path

Labels = dict[str, Tensor]


class KeptEpochs:
    """Stored labels in a folder, one file for each epoch. A damaged file, or one of other labels, counts as absent.

    Args:
        folder: created with the first file; None keeps nothing.
        key: of everything that the labels depend on.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder, self.key = folder, key

    def read_into(self, labels: Labels) -> int:
        """Fill labels [E, M, ...] with the epochs that have files, up to the first that has none; their number."""
        num_epochs = len(next(iter(labels.values())))
        expected = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in labels.items()}
        for epoch in range(num_epochs):
            stored = self._read(epoch)
            if {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()} != expected:
                return epoch
            for name, tensor in stored.items():
                labels[name][epoch] = tensor
        return num_epochs

    def write(self, epoch: int, labels: Labels) -> None:
        """Keep the labels of an epoch."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(_path(self.folder, epoch)) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in labels.items()}, temporary, {"key": self.key})

    def _read(self, epoch: int) -> Labels:
        if self.folder is None:
            return {}
        try:
            with safe_open(str(_path(self.folder, epoch)), framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return {}
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return {}


def forget_kept(folder: Path) -> None:
    """Delete what all `KeptEpochs` left below a folder; then it and its parent, where they are empty."""
    for path in folder.glob("*/labels-*.safetensors"):
        path.unlink(missing_ok=True)
    for place in (*folder.glob("*"), folder, folder.parent):
        with suppress(OSError):  # it is not empty, or not there
            place.rmdir()


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"labels-{epoch:07d}.safetensors"
