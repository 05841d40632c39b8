"""What a source offers before a single picture is decoded: its classes, and its pictures one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from attar.base.shapes import Int64
from attar.data.image_set import ImageSet, items_of_classes

Picture = Path | bytes | Image.Image
TEST_NAMES = ("test", "val", "valid", "validation")


@runtime_checkable
class Pictures(Protocol):
    """Pictures that can be read one by one, from several threads at once."""

    def read(self, position: int) -> Picture:
        """The picture at `position`: a file, encoded bytes, or a PIL image."""

    def name(self, position: int) -> str:
        """How to call it in a message."""

    def identity(self, positions: Sequence[int]) -> list[Any]:
        """JSON-able facts that change whenever one of these pictures does: what a cache entry is keyed by."""


def stamps(paths: Sequence[Path | str]) -> list[tuple[int, int, int]]:
    """Size and times of each file, which change whenever the file does."""
    stats = [os.stat(path) for path in paths]  # noqa: PTH116 (called for every file)
    return [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


@dataclass(frozen=True)
class Encoded:
    """Labelled pictures that are not decoded yet.

    Args:
        pictures: where they are read from.
        positions: int64 [N], which of them.
        labels: int64 [N], values in 0..K-1.
        classes: K names.
    """

    pictures: Pictures
    positions: Int64[Tensor, " items"]
    labels: Int64[Tensor, " items"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int64[Tensor, " chosen"]) -> Encoded:
        """The items at `indices`, in that order, with the same class list."""
        return Encoded(self.pictures, self.positions[indices], self.labels[indices], self.classes)


Part = ImageSet | Encoded


@dataclass(frozen=True)
class Offer:
    """The classes of one part, and how to open some of them: `open([3, 0])` labels class 3 as 0 and class 0 as 1."""

    classes: tuple[str, ...]
    open: Callable[[Sequence[int]], Part]


@dataclass(frozen=True)
class Source:
    """A named data set: a training part, and a test part where the source has one."""

    name: str
    train: Offer
    test: Offer | None = None


def offer_of(part: Part) -> Offer:
    """The offer of a part whose labels are already known."""
    return Offer(part.classes, lambda chosen: _with_classes(part, chosen))


def _with_classes(part: Part, chosen: Sequence[int]) -> Part:
    if list(chosen) == list(range(len(part.classes))):
        return part
    items, labels = items_of_classes(part.labels, chosen, len(part.classes))
    return replace(part.select(items), labels=labels, classes=tuple(part.classes[place] for place in chosen))
