"""Hard labels: each item belongs to one class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attar.base.config import Config
from attar.base.shapes import Int64


class HardLabels(Config):
    """One class index per item, fixed."""

    kind: Literal["hard"] = "hard"


def class_major_labels(num_classes: int, num_per_class: int) -> Int64[Tensor, " items"]:
    """Labels of `num_per_class` items of each class, all of class 0 first."""
    return torch.arange(num_classes).repeat_interleave(num_per_class)
