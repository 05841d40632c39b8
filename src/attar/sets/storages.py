"""How a tensor of the items lies in a file: under the name of a storage, which packs it and unpacks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.base.config import Config
from attar.base.container import DTYPE_NAMES, DTYPES
from attar.base.errors import InputError
from attar.base.shapes import Int64

PLAIN, CLASS_MAJOR = "plain", "class-major"
MOST_IMPLIED_LABELS = 2**24
"""As many labels may follow from the number of items alone; more must be in the file."""


class TensorSpec(Config):
    """What a tensor is like.

    Args:
        dtype: safetensors' name of it.
        shape: of the tensor.
        at_most: whether a tensor in the file may have less of its one dimension, as a compressed one has.
    """

    dtype: Literal["F32", "I32", "F16", "I16", "I8"]
    shape: tuple[int, ...]
    at_most: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The description of `tensor`."""
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{tensor.dtype} cannot be stored; allowed are {', '.join(map(str, DTYPE_NAMES))}")
        return cls(dtype=DTYPE_NAMES[tensor.dtype], shape=tuple(tensor.shape))  # type: ignore[arg-type]

    def fits(self, expected: TensorSpec) -> bool:
        """Whether a tensor like this may stand where `expected` is announced."""
        if expected.at_most and len(self.shape) == len(expected.shape) == 1:
            return self.dtype == expected.dtype and 0 < self.shape[0] <= expected.shape[0]
        return (self.dtype, self.shape) == (expected.dtype, expected.shape)

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * DTYPES[self.dtype].itemsize


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Each tensor's dtype and shape."""
    return {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}


def at_rest(tensor: Tensor) -> Tensor:
    """A copy on the CPU, in memory of its own."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


Parts = dict[str, Tensor]
"""What holds one tensor in the file, by what is appended to its name."""


@dataclass(frozen=True)
class Storage:
    """One way to hold a tensor.

    Args:
        table: (dtype and shape of the tensor, number of classes) to those of the parts, nothing being allocated; it
                raises InputError where such a tensor is never held so.
        pack: (tensor, number of classes) to the parts; None where this storage cannot hold the tensor.
        unpack: (parts, dtype and shape of the tensor, number of classes) to the tensor.
    """

    table: Callable[[TensorSpec, int], dict[str, TensorSpec]]
    pack: Callable[[Tensor, int], Parts | None]
    unpack: Callable[[Parts, TensorSpec, int], Tensor]


def _class_major(num_items: int, num_classes: int) -> Int64[Tensor, " items"]:
    return torch.arange(num_classes).repeat_interleave(num_items // num_classes)


def _class_major_table(labels: TensorSpec, num_classes: int) -> dict[str, TensorSpec]:
    if len(labels.shape) != 1 or labels.dtype != "I32" or labels.shape[0] % num_classes:
        raise InputError(f"labels {list(labels.shape)} of {num_classes} classes cannot be class-major")
    if labels.shape[0] > MOST_IMPLIED_LABELS:
        raise InputError(f"{labels.shape[0]} class-major labels; at most {MOST_IMPLIED_LABELS} are allowed")
    return {}


def _pack_class_major(labels: Tensor, num_classes: int) -> Parts | None:
    fits = len(labels) <= MOST_IMPLIED_LABELS and not len(labels) % num_classes
    return {} if fits and torch.equal(labels.long(), _class_major(len(labels), num_classes)) else None


STORAGES = {
    PLAIN: Storage(lambda spec, _: {"": spec}, lambda tensor, _: {"": tensor}, lambda parts, *_: parts[""]),
    CLASS_MAJOR: Storage(
        _class_major_table,
        _pack_class_major,
        lambda _, spec, num_classes: _class_major(spec.shape[0], num_classes).to(torch.int32),
    ),
}
"""Storages by name. A new one is a new line: the container, its reader and its checks know no storage by name."""


def storages_of(payload: Mapping[str, Tensor], num_classes: int) -> dict[str, str]:
    """The storage of each tensor of a payload that is not stored as it is."""
    implied = "labels" in payload and _pack_class_major(payload["labels"], num_classes) is not None
    return {"labels": CLASS_MAJOR} if implied else {}
