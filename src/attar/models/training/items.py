"""What networks are trained on, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.data.augmentation import Augmentation, Dsa, cutmix
from attar.models.training.settings import Plan, TrainingConfig

SUM_TOLERANCE = 1e-3
"""By how much an item's probabilities may miss a sum of 1."""


@runtime_checkable
class Inputs(Protocol):
    """Network inputs [M, c, h, w] that training reads batch by batch; every tensor is one."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The inputs at int64 [B], on the training device; float32, or float64."""


@runtime_checkable
class TrainingItems(Protocol):
    """What networks are trained on; the inputs may be drawn afresh for every epoch, and the labels with them.

    Three more attributes are read where there are any:
        at: of a precision, to the same items made in it; float32 unless it is asked for.
        augmented: True where labels belong to the inputs exactly as they are; nothing is augmented or mixed on top.
        gives_logits: True where soft labels are logits, of which training makes what its settings say.
    """

    @property
    def num_items(self) -> int:
        """M."""

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        """Inputs [M, c, h, w] and labels of an epoch counted from 0, on the training device.

        Labels are int64 [M], or soft: probabilities float [M, K], or logits where the items say so. `generator` is on
        the CPU, of this network and epoch alone.
        """


@dataclass(frozen=True)
class FixedItems:
    """The same items in every epoch, with labels int64 [M] or probabilities float [M, K], on the training device."""

    inputs: Float[Tensor, "items c h w"]
    labels: Tensor

    @property
    def num_items(self) -> int:
        return len(self.labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.inputs, self.labels


@dataclass(frozen=True)
class Batch:
    """What one step of one network sees.

    Args:
        inputs: float [B, c, h, w].
        labels: int64 [B], or float [B, K]: probabilities or logits.
        other_labels: of the rectangle that CutMix pasted in; None without CutMix.
        weight: [B], the share of `labels`; None without CutMix.
        temperature: T, at which soft labels have been taken already.
        logits: whether soft labels are logits, to be met as they are.
    """

    inputs: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    weight: Tensor | None = None
    temperature: float = 1.0
    logits: bool = False


def item_losses(logits: Float[Tensor, "items classes"], batch: Batch) -> Float[Tensor, " items"]:
    """Loss of every item: weight * loss(labels) + (1 - weight) * loss(other labels).

        hard labels             - log q_label,                q = softmax(z)
        soft, probabilities     - sum_k p_k log q_k,          q = softmax(z / T),   p = softmax(label's logits / T)
        soft, logits            mean_k (z_k - label_k)^2

    Cross-entropy differs from the Kullback-Leibler divergence by the labels' entropy, which has no gradient. There is
    no factor T^2: gradients shrink as 1 / T^2 against those of hard labels, which AdamW does not notice and SGD does.

    Source: TESLA and DATM train with soft labels so; Shen & Xing 2022 (FKD) and LIC equation 9 on regions, SRe2L and
        RDED at T = 20 without T^2; CIM's code, which followed LIC, for logits; Yun et al. 2019 (CutMix), equation 1,
        which mixes labels: for probabilities too, mixing the losses is the loss of the mixed label.
    Deviation: Hinton et al. 2015 multiply by T^2.
    """
    losses = _losses(logits, batch.labels, batch)
    if batch.other_labels is None or batch.weight is None:
        return losses
    return batch.weight * losses + (1 - batch.weight) * _losses(logits, batch.other_labels, batch)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Joins the batches into one."""
    columns = zip(*((b.inputs, b.labels, b.other_labels, b.weight) for b in batches), strict=True)
    inputs, labels, others, weights = (None if column[0] is None else torch.cat(column) for column in columns)
    assert inputs is not None and labels is not None
    return replace(batches[0], inputs=inputs, labels=labels, other_labels=others, weight=weights)


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

    Items that are `augmented` already get neither. `augmentation` is in place of that of `training`. The batches of an
    epoch do not depend on `first_epoch`.
    """
    if augmentation is None and training.augmentation is not None:
        augmentation = Dsa(training.augmentation)
    cutmix_probability = training.cutmix_probability
    if getattr(items, "augmented", False):
        augmentation, cutmix_probability = None, 0.0
    step = first_epoch * plan.steps_per_epoch
    for epoch in range(first_epoch, plan.num_epochs):
        inputs, labels = items.epoch(epoch, generator(seed, "items", epoch))
        if isinstance(inputs, Tensor):
            inputs = inputs.to(device, torch.float64 if inputs.dtype == torch.float64 else torch.float32)
        labels = soft_targets(labels.to(device), training, gives_logits(items))
        order = torch.randperm(len(labels), generator=generator(seed, "order", epoch)).to(device)
        for chosen in order.split(training.batch_size):
            if step == plan.num_steps:
                return
            logits = training.soft_loss == "logits" and labels.is_floating_point()
            batch = Batch(inputs[chosen], labels[chosen], temperature=training.temperature, logits=logits)
            yield _augmented(batch, augmentation, cutmix_probability, generator(seed, "augmentation", step))
            step += 1


def at_precision(items: TrainingItems, precision: Literal["float32", "bfloat16"]) -> TrainingItems:
    """The items computed in the precision that networks are trained in, where the items allow it."""
    return items.at(precision) if hasattr(items, "at") else items


def gives_logits(items: TrainingItems) -> bool:
    """Whether soft labels of these items are logits."""
    return bool(getattr(items, "gives_logits", False))


def soft_targets(labels: Tensor, training: TrainingConfig, logits: bool) -> Tensor:
    """The targets of training: hard labels unchanged, soft labels for the training's loss and temperature.

        p = softmax(logits / T);   probabilities become p^(1/T) over its sum, which is the same of their logarithms

    Raises:
        InputError: logits are to be met and the labels are probabilities.
    """
    if not labels.is_floating_point():
        return labels
    if training.soft_loss == "logits":
        if not logits:
            raise InputError("soft_loss 'logits' needs logits and the labels are probabilities; take 'cross-entropy'")
        return labels
    if logits:
        return (labels / training.temperature).softmax(1)
    return labels if training.temperature == 1 else (labels.log() / training.temperature).softmax(1)


def check_items(inputs: Inputs, labels: Tensor, num_items: int, num_classes: int, logits: bool = False) -> None:
    """Refuses untrainable items: InputError where a user can mend it, ValueError where the items break the protocol."""
    if not num_items:
        raise InputError("there are no items to train on; give at least one")
    soft = labels.is_floating_point() and labels.ndim == 2
    hard = labels.dtype == torch.int64 and labels.ndim == 1
    if not len(inputs) == len(labels) == num_items or not (soft or hard) or not inputs.dtype.is_floating_point:
        given = f"{inputs.dtype} {tuple(inputs.shape)}, labels {labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"{num_items} items are {given}")
    if soft:
        _check_soft(labels, num_classes, logits)
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"labels run from {lowest} to {highest}; with {num_classes} classes they must lie in 0..{num_classes - 1}"
        )


def _check_soft(labels: Tensor, num_classes: int, logits: bool) -> None:
    if labels.shape[1] != num_classes:
        raise InputError(f"soft labels have {labels.shape[1]} columns; give one for each of {num_classes} classes")
    if logits:
        if not bool(labels.isfinite().all()):
            raise InputError("soft labels are logits that are not finite; label the items again")
        return
    least, away = float(labels.min()), float((labels.sum(1) - 1).abs().max())
    if not (least >= 0 and away <= SUM_TOLERANCE):
        raise InputError(
            f"soft labels are no probabilities: the least is {least:.3g} and a sum misses 1 by {away:.3g}; "
            "give the softmax of the logits"
        )


def _losses(logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none")
    if batch.logits:
        return (logits - labels.to(logits.dtype)).square().mean(1)
    softened = logits if batch.temperature == 1 else logits / batch.temperature
    return F.cross_entropy(softened, labels.to(logits.dtype), reduction="none")


def _augmented(
    batch: Batch, augmentation: Augmentation | None, cutmix_probability: float, generator: torch.Generator
) -> Batch:
    inputs = batch.inputs
    if augmentation is not None:
        count, channels, height, width = inputs.shape
        shape = (channels, height, width)
        parameters = augmentation.draw(count, shape, generator, siamese=not augmentation.per_item)
        inputs = augmentation.apply(inputs, parameters)
    if not cutmix_probability:
        return replace(batch, inputs=inputs)
    inputs, labels, others, weight = cutmix(inputs, batch.labels, generator, cutmix_probability)
    return replace(batch, inputs=inputs, labels=labels, other_labels=others, weight=weight)
