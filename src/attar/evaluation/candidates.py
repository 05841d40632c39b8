"""Items that networks are trained on, described before they are made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import content_key
from attar.base.shapes import Float
from attar.models.codecs.codec import Codec
from attar.models.training.items import FixedItems, TrainingItems

BLOCK_VALUES = 2**24
MakeItems: TypeAlias = Callable[[torch.device], TrainingItems]
"""device -> items as network inputs there; can be pickled where an evaluation's engine is to send it elsewhere."""


class AbsentError(InputError):
    """The reason why there are no such items."""


@dataclass(frozen=True)
class Candidate:
    """Items that networks are trained on, made only when they are needed.

    Args:
        name: of the row.
        num_items: of all classes together.
        paper_bytes: 4 bytes for every stored value.
        num_bytes: as really stored: the file, or plain uint8 images.
        key: what the items depend on beside the seed, as `content_key` takes it.
        maker: seed -> what makes the items.
        drawn: whether every seed has other items.
        note: what should be known about them.
        absent: why there are none, or None.
        learning_rate: replaces the protocol's for these items; None leaves it.
        augmented: whether training has the protocol's augmentation and CutMix.
    """

    name: str
    num_items: int
    paper_bytes: int | None
    num_bytes: int | None
    key: tuple[object, ...]
    maker: Callable[[int], MakeItems]
    drawn: bool = False
    note: str = ""
    absent: str | None = None
    learning_rate: float | None = None
    augmented: bool = True

    def content(self, seed: int) -> str:
        """A name that is equal for equal items."""
        return content_key(*self.key, seed if self.drawn else None)

    def items(self, seed: int, device: torch.device) -> TrainingItems:
        """The items as network inputs on `device`."""
        return self.maker(seed)(device)

    def remembering(self) -> Candidate:
        """The same with items made once where they are the same for every seed."""
        if self.drawn:
            return self
        remembered = functools.cache(lambda: _Remembered(self.maker(0)))
        return replace(self, maker=lambda seed: remembered())


class _Remembered:
    """Makes items once for each device; sent to another process, it makes them there."""

    def __init__(self, make: MakeItems) -> None:
        self._make = make
        self._items: dict[torch.device, TrainingItems] = {}

    def __call__(self, device: torch.device) -> TrainingItems:
        if device not in self._items:
            self._items[device] = self._make(device)
        return self._items[device]

    def __reduce__(self) -> tuple[type[_Remembered], tuple[MakeItems]]:
        return _Remembered, (self._make,)


def absent_candidate(name: str, reason: str) -> Candidate:
    """A row of which only the reason why it is absent can be told."""

    def never(seed: int) -> MakeItems:
        raise InputError(reason)

    return Candidate(name, 0, None, None, (), never, absent=reason)


@torch.no_grad()
def network_inputs(images: Tensor, preprocess: Codec, device: torch.device) -> Float[Tensor, "items c h w"]:
    """uint8 or float images as network inputs on `device`, block by block."""
    codec = preprocess.to(device)
    block = max(1, BLOCK_VALUES // images[0].numel()) if len(images) else 1
    parts = []
    for part in images.split(block):
        moved = part.to(device)
        parts.append(codec.encode(moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()))
    return torch.cat(parts) if parts else torch.empty(0, *preprocess.code_shape, device=device)


def image_items(images: Tensor, labels: Tensor, preprocess: Codec, device: torch.device) -> FixedItems:
    """Images as network inputs on `device`, the same in every epoch."""
    return FixedItems(network_inputs(images, preprocess, device), labels.to(device))
