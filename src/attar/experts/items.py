"""Real items as what networks are trained on: only the batch at hand is made float and encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.objectives.objective import RealItems
from attar.shapes import Float, Int64


class GatheredInputs:
    """Real items [N, c, h, w] that exist batch by batch.

    Args:
        real: the items.
    """

    def __init__(self, real: RealItems) -> None:
        self._real = real
        self.shape = torch.Size([len(real.labels), *real.shape])
        self.dtype = torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    @torch.no_grad()
    def __getitem__(self, indices: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        return self._real.gather(indices)


@dataclass(frozen=True)
class RealTrainingItems:
    """The same real items in every epoch.

    Args:
        real: on the training device.
    """

    real: RealItems

    @property
    def num_items(self) -> int:
        return len(self.real.labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[GatheredInputs, Tensor]:
        """The items, whatever the epoch."""
        return GatheredInputs(self.real), self.real.labels
