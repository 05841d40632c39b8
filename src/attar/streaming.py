"""A distilled set as networks are trained on it: items fixed or drawn anew for each epoch, labels hard or soft."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attar.manifest import SOFT_LABELS
from attar.shapes import Float


class DecodedItems:
    """Network inputs that are the same in every epoch.

    Args:
        inputs: float32 [M, c, h, w].
        labels: int64 [M], or probabilities float32 [M, K].
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels, self.num_items = inputs, labels, len(labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All items in their own order."""
        return self.inputs, self.labels


class SampledItems:
    """Network inputs of stochastic items, drawn anew for each epoch.

    Args:
        draw: generator -> float32 [M, c, h, w], one sample of every item, in the items' order.
        labels: int64 [M], or probabilities float32 [M, K].
    """

    def __init__(self, draw: Callable[[torch.Generator], Tensor], labels: Tensor) -> None:
        self._draw, self.labels, self.num_items = draw, labels, len(labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sample of every item."""
        return self._draw(generator), self.labels


def label_probabilities(payload: Mapping[str, Tensor], num_classes: int) -> Float[Tensor, "items classes"]:
    """Each item's probabilities, float32.

    p = softmax(logits) where the payload has soft labels, else 1 at the item's class and 0 elsewhere
    """
    if SOFT_LABELS in payload:
        return payload[SOFT_LABELS].float().softmax(1)
    return torch.nn.functional.one_hot(payload["labels"].long(), num_classes).float()
