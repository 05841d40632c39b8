"""What networks are trained on, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.data.augmentation import Augmentation, Dsa, apply_cutmix, draw_cutmix
from attar.errors import InputError
from attar.randomness import generator
from attar.shapes import Float
from attar.training.settings import Plan, TrainingConfig

SUM_TOLERANCE = 1e-3
"""By how much an item's probabilities may miss a sum of 1."""


@runtime_checkable
class Inputs(Protocol):
    """Network inputs [M, c, h, w] as training reads them: batch by batch. Every tensor is one."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The inputs at int64 [B], on the training device; float32, or float64."""


@runtime_checkable
class TrainingItems(Protocol):
    """What networks are trained on: the same labels in every epoch, the inputs perhaps drawn afresh."""

    @property
    def num_items(self) -> int:
        """M."""

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        """(network inputs float [M, c, h, w], labels) of one epoch, on the training device.

        Inputs are a tensor, or make each batch when it is asked for. Labels are int64 [M], or soft: probabilities
        float [M, K].

        Args:
            epoch: counted from 0.
            generator: on the CPU, of this network and epoch alone.
        """


@dataclass(frozen=True)
class FixedItems:
    """The same items in every epoch; put them on the training device once.

    Args:
        inputs: network inputs, float [M, c, h, w].
        labels: int64 [M], or probabilities float [M, K].
    """

    inputs: Float[Tensor, "items c h w"]
    labels: Tensor

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
        labels: int64 [B], or probabilities float [B, K].
        other_labels: of the same kind, of the rectangle that CutMix pasted in; None without CutMix.
        weight: [B], the share of `labels`; None without CutMix.
    """

    inputs: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    weight: Tensor | None = None


def item_losses(logits: Float[Tensor, "items classes"], batch: Batch) -> Float[Tensor, " items"]:
    """Cross-entropy of every item: weight * loss(labels) + (1 - weight) * loss(other labels).

        loss(p) = - sum_k p_k log q_k,    q = softmax(logits),    p the soft label, or 1 at the hard label's class

    Source: TESLA and DATM train with soft labels so; Yun et al. 2019 (CutMix), equation 1, which mixes labels: for
        probabilities too, mixing the losses is the loss of the mixed label.
    """
    losses = _cross_entropy(logits, batch.labels)
    if batch.other_labels is None or batch.weight is None:
        return losses
    return batch.weight * losses + (1 - batch.weight) * _cross_entropy(logits, batch.other_labels)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """The batches one after another, as one."""
    columns = zip(*((b.inputs, b.labels, b.other_labels, b.weight) for b in batches), strict=True)
    inputs, labels, others, weights = (None if column[0] is None else torch.cat(column) for column in columns)
    assert inputs is not None and labels is not None
    return Batch(inputs, labels, others, weights)


def training_batches(
    items: TrainingItems,
    training: TrainingConfig,
    plan: Plan,
    seed: int,
    device: torch.device,
    augmentation: Augmentation | None = None,
    first_epoch: int = 0,
) -> Iterator[Batch]:
    """Every step's batch for the network of one seed: a fresh permutation an epoch, then DSA, then CutMix.

    Args:
        items: what to train on.
        training: batch size and augmentation.
        plan: how many steps.
        seed: of the network.
        device: where it trains.
        augmentation: in place of that of `training`.
        first_epoch: where to begin; the batches of an epoch do not depend on it.
    """
    if augmentation is None and training.augmentation is not None:
        augmentation = Dsa(training.augmentation)
    step = first_epoch * plan.steps_per_epoch
    for epoch in range(first_epoch, plan.num_epochs):
        inputs, labels = items.epoch(epoch, generator(seed, "items", epoch))
        if isinstance(inputs, Tensor):
            inputs = inputs.to(device, torch.float64 if inputs.dtype == torch.float64 else torch.float32)
        labels = labels.to(device)
        order = torch.randperm(len(labels), generator=generator(seed, "order", epoch)).to(device)
        for chosen in order.split(training.batch_size):
            if step == plan.num_steps:
                return
            batch, draw = Batch(inputs[chosen], labels[chosen]), generator(seed, "augmentation", step)
            yield _augmented(batch, augmentation, training.cutmix_probability, draw)
            step += 1


def check_items(inputs: Inputs, labels: Tensor, num_items: int, num_classes: int) -> None:
    """Raises what cannot be trained on: InputError where a user can mend it, ValueError where `items` is at fault."""
    if not num_items:
        raise InputError("there are no items to train on; give at least one")
    soft = labels.is_floating_point() and labels.ndim == 2
    hard = labels.dtype == torch.int64 and labels.ndim == 1
    if not len(inputs) == len(labels) == num_items or not (soft or hard) or not inputs.dtype.is_floating_point:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"{num_items} items are {inputs.dtype} {tuple(inputs.shape)}, labels {found}")
    if soft:
        _check_probabilities(labels, num_classes)
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"labels run from {lowest} to {highest}; with {num_classes} classes they must lie in 0..{num_classes - 1}"
        )


def _check_probabilities(labels: Tensor, num_classes: int) -> None:
    if labels.shape[1] != num_classes:
        raise InputError(f"soft labels have {labels.shape[1]} columns; give one for each of {num_classes} classes")
    least, away = float(labels.min()), float((labels.sum(1) - 1).abs().max())
    if not (least >= 0 and away <= SUM_TOLERANCE):
        raise InputError(
            f"soft labels are no probabilities: the least is {least:.3g} and a sum misses 1 by {away:.3g}; "
            "give the softmax of the logits"
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    soft = labels.is_floating_point()
    return F.cross_entropy(logits, labels.to(logits.dtype) if soft else labels, reduction="none")


def _augmented(
    batch: Batch, augmentation: Augmentation | None, cutmix_probability: float, generator: torch.Generator
) -> Batch:
    inputs, labels = batch.inputs, batch.labels
    count, channels, height, width = inputs.shape
    shape = (channels, height, width)
    if augmentation is not None:
        drawn = augmentation.draw(count, shape, generator, siamese=not augmentation.per_item)
        inputs = augmentation.apply(inputs, drawn)
    if not cutmix_probability:
        return Batch(inputs, labels)
    return Batch(*apply_cutmix(inputs, labels, draw_cutmix(count, shape, generator, cutmix_probability)))
