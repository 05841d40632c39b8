"""Hard labels: each item belongs to one class. And what the settings of all kinds of labels say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attar.base.config import Config
from attar.base.shapes import Int64
from attar.methods.composition import Composition, Unmet


class LabelsConfig(Config):
    """What a recipe says of its labels.

    Attributes:
        asks_observer: whether an observer gives them, once the items are finished.
        limits_bytes: whether they have `label_bytes`.
    """

    asks_observer: ClassVar[bool] = False
    limits_bytes: ClassVar[bool] = False

    kind: str

    @property
    def item_storage(self) -> Literal["float16", "float32"] | None:
        """How a file stores the logits of every item; None where it has none."""
        return None

    @property
    def taken_at(self) -> Literal["start", "end"] | None:
        """When items are given soft labels; None for never."""
        return None

    def without_flip(self) -> LabelsConfig:
        """The same, mirroring nothing that an observer looks at."""
        return self

    def parameter_group(self, logits: Tensor) -> dict[str, Any] | None:
        """How logits that are trained with the items are updated, as a group for torch.optim.SGD; None keeps them."""
        return None

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        """Needs of these labels that the recipe does not meet."""
        return iter(())


class HardLabels(LabelsConfig):
    """One class index per item, fixed."""

    kind: Literal["hard"] = "hard"


def class_major_labels(num_classes: int, num_per_class: int) -> Int64[Tensor, " items"]:
    """Labels of `num_per_class` items of each class, all of class 0 first."""
    return torch.arange(num_classes).repeat_interleave(num_per_class)
