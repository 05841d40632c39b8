"""How networks are trained: optimiser, schedule, augmentation, number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.data.augmentation import DsaConfig
from attar.models.training.acceleration import Precision


class TrainingConfig(Config):
    """How networks are trained.

    Args:
        epochs: passes over the items, before `min_steps` and `max_steps`.
        batch_size: items a step; the last, smaller batch of an epoch is kept.
        optimizer: torch.optim.SGD or torch.optim.AdamW.
        learning_rate: at the start.
        momentum: of SGD; AdamW has its own two of 0.9 and 0.999.
        weight_decay: of either, in the optimiser's own sense.
        schedule: "step" multiplies the rate by `decay` at each milestone; "cosine" goes to 0 step by step.
        milestones: fractions of the epochs, ascending; of E epochs counted from 0, floor(f E) is the first slower one.
        decay: factor at a milestone.
        reset_momentum: rebuild the optimiser at a milestone, as DC's evaluation does.
        augmentation: DSA of every batch, with parameters of its own for every image; None: none.
        cutmix_probability: that an image receives another's rectangle, in [0, 1].
        flat_radius: rho of sharpness-aware minimisation (see `flatten_gradients`); 0 takes the plain gradient.
        precision: see `resolve_acceleration`.
        min_steps: more epochs are run until there are at least so many steps; None: no bound.
        max_steps: fewer epochs are run, if need be the last one in part, so that there are at most so many; None: no
            bound.
        soft_loss: on soft labels, "cross-entropy" or "logits", the mean squared difference of logits from items that
            give logits; hard labels always have cross-entropy.
        temperature: T of cross-entropy on soft labels; see `item_losses`.

    Source: DC's evaluation: SGD .01, momentum .9, weight decay 5e-4, batch 256, milestone 1/2, reset_momentum.
    Deviation: DC's loop runs E + 1 epochs and slows down after epoch E//2 + 1 counted from 0; here E epochs, the first
        half of them fast. `epochs=E + 1, milestones=((E // 2 + 2) / (E + 1),)` is exactly DC's.
    """

    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=256, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.5,)
    decay: float = Field(default=0.1, gt=0, le=1)
    reset_momentum: bool = True
    augmentation: DsaConfig | None = None
    cutmix_probability: float = Field(default=0.0, ge=0, le=1)
    flat_radius: float = Field(default=0.0, ge=0)
    precision: Precision = "auto"
    min_steps: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    soft_loss: Literal["cross-entropy", "logits"] = "cross-entropy"
    temperature: float = Field(default=1.0, gt=0, le=1000)

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < f < 1 for f in self.milestones):
            raise InputError(f"milestones are {self.milestones}; give ascending fractions between 0 and 1")
        if self.min_steps and self.max_steps and self.min_steps > self.max_steps:
            raise InputError(f"min_steps {self.min_steps} is above max_steps {self.max_steps}; swap them")
        if self.soft_loss == "logits" and self.temperature != 1:
            raise InputError(
                f"temperature {self.temperature} has no effect on soft_loss 'logits'; leave it out, or take "
                "'cross-entropy'"
            )
        return self

    def without_flip(self) -> TrainingConfig:
        """The same without mirrored images."""
        return self.model_copy(update={"augmentation": self.augmentation and self.augmentation.without_flip()})


@dataclass(frozen=True)
class Plan:
    """The number of epochs and steps of a training."""

    num_epochs: int
    num_steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, training: TrainingConfig, num_items: int) -> Plan:
        """The configured epochs, or more for `min_steps`, or fewer for `max_steps`."""
        per_epoch = math.ceil(num_items / training.batch_size)
        epochs = max(training.epochs, math.ceil((training.min_steps or 0) / per_epoch))
        steps = min(epochs * per_epoch, training.max_steps or epochs * per_epoch)
        return cls(math.ceil(steps / per_epoch), steps, per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether a step counted from 0 is the last of its epoch, be the epoch cut short or not."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.num_steps


def images_seen(training: TrainingConfig, num_items: int) -> int:
    """How many images one network is trained on, one after another: the items of every step together.

    B per step, but for an epoch's last step, which has what is left of the M items
    """
    plan = Plan.of(training, num_items)
    whole, rest = divmod(plan.num_steps, plan.steps_per_epoch)
    return whole * num_items + rest * training.batch_size


def make_optimizer(parameters: Sequence[Tensor], training: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimiser, exactly PyTorch's; stacked parameters are stepped as each network's own would be."""
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
    )


def learning_rate_at(training: TrainingConfig, plan: Plan, step: int) -> float:
    """The learning rate of a step counted from 0."""
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * step / plan.num_steps)) / 2
    return training.learning_rate * training.decay ** num_decays(training, plan, step)


def num_decays(training: TrainingConfig, plan: Plan, step: int) -> int:
    """How many milestones a step counted from 0 has passed."""
    if training.schedule != "step":
        return 0
    epoch = step // plan.steps_per_epoch
    # The small term keeps floor(f E) right where f is a quotient such as 2/3.
    return sum(epoch >= math.floor(fraction * plan.num_epochs + 1e-9) for fraction in training.milestones)


def flatten_gradients(
    parameters: Sequence[Tensor], radius: float, losses: Callable[[], Tensor], num_networks: int = 1
) -> None:
    """Replaces every `.grad`, which holds g = grad L(theta), by the gradient where the loss is highest nearby.

        grad L(theta + rho g / ||g||)

    The norm is over all parameters of a network: with stacked parameters [networks, ...] each network has its own.
    Parameters come back bit for bit.

    Args:
        parameters: the leaves.
        radius: rho, in units of the parameters.
        losses: of the same batch, at the present parameters; one value, or one for each network.
        num_networks: how many are stacked.

    Source: Foret et al. 2021 (SAM), equation 2 and Algorithm 1; FTD (Du et al. 2023) trains its experts so.
    Deviation: FTD's code takes GSAM (Zhuang et al. 2022), which also steps against a share of g's part that is
        orthogonal to the peak's gradient.
    """

    def gradient_of(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    here = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        squares = [gradient_of(parameter).reshape(num_networks, -1).square().sum(1) for parameter in parameters]
        norms = torch.stack(squares).sum(0).sqrt()
        scales = radius / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        for parameter in parameters:
            rows = parameter.view(num_networks, -1)
            rows.addcmul_(gradient_of(parameter).reshape(num_networks, -1), scales.unsqueeze(1))
            parameter.grad = None
    losses().sum().backward()
    with torch.no_grad():
        for parameter, value in zip(parameters, here, strict=True):
            parameter.copy_(value)
