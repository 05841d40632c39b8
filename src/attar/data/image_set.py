"""Labelled real images in memory or memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Int64, UInt8
from attar.data.subsets import match_classes


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one shape. Nothing here is changed after creation.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3, in memory or memory-mapped.
        labels: int64 [N], values in 0..K-1.
        classes: K names, in the order of the labels.

    Raises:
        InputError: shapes, dtypes or labels that do not fit together.
    """

    images: UInt8[Tensor, "items channels height width"]
    labels: Int64[Tensor, " items"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over shapes, class names, labels and every pixel, read in blocks: the content's name."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(self.labels.numpy().tobytes())
        for block in self.images.split(4096):
            digest.update(block.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def class_indices(self) -> tuple[Int64[Tensor, " _"], ...]:
        """For each class the indices of its items, ascending."""
        order = torch.argsort(self.labels, stable=True)
        counts = torch.bincount(self.labels, minlength=self.num_classes).tolist()
        return tuple(order.split(counts))

    def select(self, indices: Tensor) -> ImageSet:
        """The items at `indices` (int64), in that order, with the same class list."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes)

    def with_classes(self, wanted: Sequence[str | int] | str) -> ImageSet:
        """Only the wanted classes, found and named as by `match_classes`, relabelled 0.. in the order given.

        Raises:
            InputError: an unknown name (the nearest is named), an index out of range, a class given twice, one class.
        """
        places, names = match_classes(wanted, self.classes)
        items, labels = items_of_classes(self.labels, places, self.num_classes)
        return ImageSet(self.images[items], labels, tuple(names))


def items_of_classes(
    labels: Int64[Tensor, " items"], chosen: Sequence[int], num_classes: int
) -> tuple[Int64[Tensor, " some"], Int64[Tensor, " some"]]:
    """The items of some of `num_classes` classes, ascending, and their labels, which are places in `chosen`."""
    places = torch.full((num_classes,), -1, dtype=torch.int64)
    places[torch.tensor(chosen)] = torch.arange(len(chosen))
    items = (places[labels] >= 0).nonzero().flatten()
    return items, places[labels[items]]


@dataclass(frozen=True)
class Splits:
    """The training and test part of one data set, with the same classes in the same order.

    Args:
        train: what is distilled and what baselines are drawn from.
        test: what scores are measured on, and nothing else.
        name: where it came from, in words fit for a manifest (never an absolute path).
    """

    train: ImageSet
    test: ImageSet
    name: str

    def __post_init__(self) -> None:
        if self.train.classes != self.test.classes:
            raise InputError(
                f"train and test differ in classes: {self.train.classes[:5]}... and {self.test.classes[:5]}...; "
                "give both the same class folders"
            )


def _check(images: ImageSet) -> None:
    if images.images.ndim != 4 or images.images.dtype != torch.uint8:
        raise InputError(
            f"images are {images.images.dtype} of shape {tuple(images.images.shape)}; uint8 [N, C, H, W] is needed"
        )
    if images.images.shape[1] not in (1, 3):
        raise InputError(f"images have {images.images.shape[1]} channels; 1 (grey) or 3 (RGB) are allowed")
    if len(images.images) != len(images.labels):
        raise InputError(f"{len(images.images)} images but {len(images.labels)} labels; give one label for each image")
    if len(images.classes) < 2:
        raise InputError(f"{len(images.classes)} class; a classifier needs at least 2")
    if len(images.labels) and not 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(images.classes):
        raise InputError(
            f"labels run from {int(images.labels.min())} to {int(images.labels.max())}; "
            f"with {len(images.classes)} classes they must lie in 0..{len(images.classes) - 1}"
        )
