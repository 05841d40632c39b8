"""The bytes of one expert's file: a safetensors file whose every offset is known before it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from attar.base.shapes import Float

Storage: TypeAlias = Literal["float32", "bfloat16"]

_DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}


@dataclass(frozen=True)
class ExpertLayout:
    """Where what lies in an expert's file.

    The tensors are, in this order: "accuracy" float32 [1], "losses" float32 [E], "trajectories" [E + 1, P].

    Args:
        num_epochs: E.
        num_parameters: P.
        storage: of the trajectories.
    """

    num_epochs: int
    num_parameters: int
    storage: Storage

    @property
    def header(self) -> bytes:
        """The file's beginning, the same for every expert: whoever reads compares it and parses nothing."""
        name, _ = _DTYPES[self.storage]
        end = self.figures_bytes + self.num_rows * self.row_bytes
        entries = {
            "__metadata__": {"attar": "expert"},
            "accuracy": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "losses": {"dtype": "F32", "shape": [self.num_epochs], "data_offsets": [4, self.figures_bytes]},
            "trajectories": {
                "dtype": name,
                "shape": [self.num_rows, self.num_parameters],
                "data_offsets": [self.figures_bytes, end],
            },
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_rows(self) -> int:
        """Parameters are kept before the first epoch and after every one."""
        return self.num_epochs + 1

    @property
    def row_bytes(self) -> int:
        return _DTYPES[self.storage][1] * self.num_parameters

    @property
    def figures_bytes(self) -> int:
        """Of accuracy and losses."""
        return 4 * (1 + self.num_epochs)

    @property
    def num_bytes(self) -> int:
        """Of the whole file."""
        return self.row_start(self.num_rows)

    def row_start(self, epoch: int) -> int:
        """Where the parameters after `epoch` epochs begin."""
        return len(self.header) + self.figures_bytes + epoch * self.row_bytes

    def row(self, parameters: Float[Tensor, " parameters"]) -> bytes:
        """Parameters as they are stored."""
        if self.storage == "float32":
            return floats_to_bytes(parameters)
        return parameters.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2", copy=False).tobytes()

    def parameters(self, row: bytes) -> Float[Tensor, " parameters"]:
        """Stored parameters in float32."""
        if self.storage == "float32":
            return floats_from_bytes(row)
        return torch.from_numpy(np.frombuffer(row, "<i2").astype(np.int16)).view(torch.bfloat16).float()


def floats_to_bytes(values: Tensor) -> bytes:
    """float32, little-endian."""
    return values.float().numpy().astype("<f4", copy=False).tobytes()


def floats_from_bytes(data: bytes) -> Tensor:
    """float32 of its own memory."""
    return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
