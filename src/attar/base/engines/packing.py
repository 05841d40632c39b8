"""What goes to workers, packed so that those of a node read one copy of large tensors, on whichever GPU each has."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEAST_BYTES = 2**20
"""Smaller tensors are copied: those that a program might write to, running means or weights, are small."""


@dataclass(frozen=True)
class Packed:
    """A pickle, and the memory it refers to.

    Args:
        data: the pickle.
        buffers: uint8 [n] each.
    """

    data: bytes
    buffers: Sequence[np.ndarray]

    @property
    def num_bytes(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)


def pack(value: Any) -> Packed:
    """The value with the memory of its large tensors and arrays apart, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    sink = io.BytesIO()
    _Packer(sink, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(sink.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def unpack(packed: Packed) -> Any:
    """The value; its large tensors are views of the buffers, which may be read only."""
    return pickle.loads(packed.data, buffers=packed.buffers)


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """GPUs are numbered anew in every worker: what is on any of them here is on the worker's own there."""
        if isinstance(value, torch.device) and value.type == "cuda":
            return torch.device, (value.type,)
        if type(value) is not Tensor or value.requires_grad or value.layout != torch.strided:
            return NotImplemented
        if value.device.type == "cuda":
            return _on_gpu, (value.cpu(),)
        num_bytes = value.numel() * value.element_size()
        if value.device.type == "cpu" and num_bytes < min(LEAST_BYTES, value.untyped_storage().nbytes()):
            return value.clone(memory_format=torch.contiguous_format).__reduce_ex__(5)  # else all that it is a view of
        if value.device.type != "cpu" or num_bytes < LEAST_BYTES:
            return NotImplemented
        flat = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
        return _tensor, (pickle.PickleBuffer(flat), value.dtype, tuple(value.shape))


def _on_gpu(value: Tensor) -> Tensor:
    return value.cuda()


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    import warnings

    with warnings.catch_warnings():
        # Nobody writes to what jobs share: see `Work`.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape)
