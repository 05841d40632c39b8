"""What networks are trained on, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.data.augmentation import Dsa, apply_cutmix, draw_cutmix
from attar.errors import InputError
from attar.randomness import generator
from attar.shapes import Float, Int64
from attar.training.settings import Plan, TrainingConfig


@runtime_checkable
class TrainingItems(Protocol):
    """What networks are trained on: the same labels in every epoch, the inputs perhaps drawn afresh."""

    @property
    def num_items(self) -> int:
        """M."""

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(network inputs float [M, c, h, w], labels int64 [M]) of one epoch, on the training device.

        Args:
            epoch: counted from 0.
            generator: on the CPU, of this network and epoch alone.
        """


@dataclass(frozen=True)
class FixedItems:
    """The same items in every epoch; put them on the training device once.

    Args:
        inputs: network inputs, float [M, c, h, w].
        labels: int64 [M].
    """

    inputs: Float[Tensor, "items c h w"]
    labels: Int64[Tensor, " items"]

    @property
    def num_items(self) -> int:
        return len(self.labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The items, whatever the epoch."""
        return self.inputs, self.labels


@dataclass(frozen=True)
class Batch:
    """What one step of one network sees.

    Args:
        inputs: float [B, c, h, w].
        labels: int64 [B].
        other_labels: int64 [B], of the rectangle that CutMix pasted in; None without CutMix.
        weight: [B], the share of `labels`; None without CutMix.
    """

    inputs: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    weight: Tensor | None = None


def item_losses(logits: Float[Tensor, "items classes"], batch: Batch) -> Float[Tensor, " items"]:
    """Cross-entropy of every item: weight * loss(labels) + (1 - weight) * loss(other labels)."""
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    if batch.other_labels is None or batch.weight is None:
        return losses
    others = F.cross_entropy(logits, batch.other_labels, reduction="none")
    return batch.weight * losses + (1 - batch.weight) * others


def concatenated(batches: Sequence[Batch]) -> Batch:
    """The batches one after another, as one."""
    columns = zip(*((b.inputs, b.labels, b.other_labels, b.weight) for b in batches), strict=True)
    inputs, labels, others, weights = (None if column[0] is None else torch.cat(column) for column in columns)
    assert inputs is not None and labels is not None
    return Batch(inputs, labels, others, weights)


def training_batches(
    items: TrainingItems, training: TrainingConfig, plan: Plan, seed: int, device: torch.device
) -> Iterator[Batch]:
    """Every step's batch for the network of one seed: a fresh permutation an epoch, then DSA, then CutMix."""
    step = 0
    for epoch in range(plan.num_epochs):
        inputs, labels = items.epoch(epoch, generator(seed, "items", epoch))
        inputs = inputs.to(device, torch.float64 if inputs.dtype == torch.float64 else torch.float32)
        labels = labels.to(device)
        order = torch.randperm(len(labels), generator=generator(seed, "order", epoch)).to(device)
        for chosen in order.split(training.batch_size):
            if step == plan.num_steps:
                return
            yield _augmented(Batch(inputs[chosen], labels[chosen]), training, generator(seed, "augmentation", step))
            step += 1


def check_items(inputs: Tensor, labels: Tensor, num_items: int, num_classes: int) -> None:
    """Raises what cannot be trained on: InputError where a user can mend it, ValueError where `items` is at fault."""
    if not num_items:
        raise InputError("there are no items to train on; give at least one")
    if not len(inputs) == len(labels) == num_items or labels.dtype != torch.int64 or not inputs.is_floating_point():
        raise ValueError(f"{num_items} items are {inputs.dtype} {tuple(inputs.shape)}, {labels.dtype} {len(labels)}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"labels run from {lowest} to {highest}; with {num_classes} classes they must lie in 0..{num_classes - 1}"
        )


def _augmented(batch: Batch, training: TrainingConfig, generator: torch.Generator) -> Batch:
    inputs, labels = batch.inputs, batch.labels
    count, channels, height, width = inputs.shape
    shape = (channels, height, width)
    if training.augmentation is not None:
        dsa = Dsa(training.augmentation)
        inputs = dsa.apply(inputs, dsa.draw(count, shape, generator, siamese=False))
    if not training.cutmix_probability:
        return Batch(inputs, labels)
    return Batch(*apply_cutmix(inputs, labels, draw_cutmix(count, shape, generator, training.cutmix_probability)))
