"""Trajectories: a student trained on the synthetic items ends where experts went (MTT, TESLA, FTD, DATM, LatentMTT)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.device import saved_bytes_per_item
from attar.base.errors import InputError, NonFiniteLossError
from attar.methods.objectives.experts import ExpertMatching, ExpertMatchingConfig
from attar.methods.objectives.objective import (
    SECOND_ORDER,
    Context,
    MatchingConfig,
    Synthetic,
    class_probabilities,
)
from attar.methods.objectives.student import EndGradients, Training, adjoint_gradients, draw_steps, unrolled_gradients
from attar.models.networks.network import Network
from attar.models.real_items import RealItems


class TrajectoriesConfig(ExpertMatchingConfig):
    """Settings of trajectory matching.

    Args:
        expert_epochs: M, epochs of an expert from start to target.
        student_steps: N, steps of the student.
        min_start_epoch: the earliest start.
        max_start_epoch: the latest start.
        growth_steps: outer steps over which the latest start grows evenly from `initial_max_start_epoch` to
            `max_start_epoch` (DATM); 0 is the whole range from the beginning.
        initial_max_start_epoch: see `growth_steps`; None is `min_start_epoch`.
        student_batch_size: items of a student's step; None takes all.
        student_rate: the student's learning rate at the start.
        student_rate_learning_rate: the rate at which it is learned; 0 keeps it.
        student_momentum: of the student's SGD.
        gradient: "adjoint" is exact in constant activation memory, "unrolled" the same through one graph, "tesla"
            TESLA's approximation without the Hessian.
        trajectories_per_step: students whose losses are averaged in an outer step, one after another.
        augmented: "experts" in D3, where what students see differs by sampling.
        samples: how often each item is drawn for an outer step, where the parameterization samples: when a student goes
            through the items for the p-th time, from 0, it sees the samples p mod `samples`. As many as it goes through
            them, `student_steps` where every step takes all items, are a fresh one each time (D3).
        kept_steps: student steps whose graph the adjoint keeps from the forward to the backward sweep: the fewer, the
            less memory; the more, the less time (all of them: that of unrolling). None: as many as memory allows.

    Raises:
        InputError: a range of starts that is empty or beyond the experts' end, a setting without effect, batch norm.
    """

    own_learned_names: ClassVar[tuple[str, ...]] = ("student_rate",)

    kind: Literal["trajectories"] = "trajectories"
    expert_epochs: int = Field(default=2, ge=1)
    student_steps: int = Field(default=30, ge=1)
    min_start_epoch: int = Field(default=0, ge=0)
    max_start_epoch: int = Field(default=20, ge=0)
    growth_steps: int = Field(default=0, ge=0)
    initial_max_start_epoch: int | None = Field(default=None, ge=0)
    student_batch_size: int | None = Field(default=None, ge=1)
    student_rate: float = Field(default=0.01, gt=0)
    student_rate_learning_rate: float = Field(default=1e-5, ge=0)
    student_momentum: float = Field(default=0.0, ge=0, lt=1)
    gradient: Literal["adjoint", "unrolled", "tesla"] = "adjoint"
    trajectories_per_step: int = Field(default=1, ge=1)
    kept_steps: int | None = Field(default=None, ge=0)

    def build(self, context: Context) -> Trajectories:
        return Trajectories(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 6 + self.student_steps * (1 if self.gradient != "unrolled" else 2)

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        batch = min(num_items, self.student_batch_size or num_items)
        if self.gradient == "unrolled":
            return SECOND_ORDER * batch * self.student_steps
        return SECOND_ORDER * min(batch, self.chunk_items)

    def with_spare_memory(
        self, spare_bytes: int, network: Network, context: Context, num_items: int
    ) -> tuple[MatchingConfig, dict[str, int]]:
        """As many of a student's graphs kept as the spare bytes hold, where the settings name no number."""
        if self.gradient == "unrolled":
            return self, {}
        batch = min(num_items, self.student_batch_size or num_items)
        graph_bytes = int(SECOND_ORDER * batch * saved_bytes_per_item(network, context.item_shape))
        fitting = int(spare_bytes // max(1, graph_bytes)) if self.kept_steps is None else self.kept_steps
        count = min(self.student_steps, fitting)
        return self.model_copy(update={"kept_steps": count}), {"kept graphs": count * graph_bytes}

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> TrajectoriesConfig:
        if self.min_start_epoch > self.max_start_epoch:
            raise InputError(
                f"the earliest start, epoch {self.min_start_epoch}, is after the latest, {self.max_start_epoch}; "
                "lower min_start_epoch or raise max_start_epoch"
            )
        self._check_growth()
        self._check_samples()
        _check_length(self, self.experts.epochs)
        return self

    def _check_samples(self) -> None:
        if self.samples > self.student_steps:
            raise InputError(
                f"{self.samples} samples are more than the {self.student_steps} student steps that could see them; "
                "lower samples, or raise student_steps"
            )
        if self.samples > 1 and self.augmentation is not None and self.augmented == "both":
            raise InputError(
                "samples already differ from step to step, and students augment on top; set augmented=experts, "
                "or samples=1"
            )

    def _check_growth(self) -> None:
        if not self.growth_steps and self.initial_max_start_epoch is not None:
            raise InputError("initial_max_start_epoch has no effect without growth_steps; give both or neither")
        initial = self.min_start_epoch if self.initial_max_start_epoch is None else self.initial_max_start_epoch
        if self.growth_steps and initial == self.max_start_epoch:
            raise InputError(f"growth_steps has no effect: the latest start is {initial} from the first; leave it 0")
        if not self.min_start_epoch <= initial <= self.max_start_epoch:
            raise InputError(
                f"initial_max_start_epoch is {initial}; it must be from min_start_epoch {self.min_start_epoch} "
                f"to max_start_epoch {self.max_start_epoch}"
            )


def latest_start(config: TrajectoriesConfig, step: int) -> int:
    """The latest start epoch in an outer step (from 0).

        T+(step) = floor(T_0 + (T+ - T_0) min(1, step / growth_steps))

    Source: Guo et al. 2024 (DATM), its code's upper bound; T_0 is `initial_max_start_epoch`.
    """
    if step >= config.growth_steps:
        return config.max_start_epoch
    initial = config.initial_max_start_epoch if config.initial_max_start_epoch is not None else config.min_start_epoch
    return initial + (config.max_start_epoch - initial) * step // config.growth_steps


class Trajectories(ExpertMatching):
    """MTT's objective in whatever space the items live: pixels (MTT) or codes (LatentMTT).

    Each step draws an expert and a start epoch t, trains a student from the expert's parameters at t for N steps on the
    synthetic items, and measures how far it ends from where the expert was M epochs later:

        L = || theta_N - expert_{t+M} ||^2 / || expert_t - expert_{t+M} ||^2

    The gradient with respect to items, soft labels and the student's rate is exact (`adjoint_gradients`). Items, with
    all their samples, are rendered once a step, in one call; all students' gradients meet there before they go back
    through the parameterization, of whose decoder norms the whole call is the batch.

    Raises:
        InputError: no experts, or experts that are too short.

    Attributes:
        student_rate: beta, learned unless `student_rate_learning_rate` is 0.

    Source: LatentDD Algorithm 3 and Eq. 9; Cazenavette et al. 2022 (MTT), Algorithm 1.
    Deviation: starts are uniform in [min_start_epoch, latest] with both ends, as in the papers; the official codes
        leave out the latest. A permutation's smaller batch comes last; the official codes take it first. D3's code
        decodes each step's samples by themselves, with norms of that batch alone.
    """

    config: TrajectoriesConfig

    def __init__(self, config: TrajectoriesConfig, context: Context) -> None:
        super().__init__(config, context)
        _check_length(config, self.experts.num_epochs)
        self.student_rate = nn.Parameter(torch.tensor(config.student_rate, device=context.device))
        self.student_rate.requires_grad_(config.student_rate_learning_rate > 0)
        self.kept_steps = config.kept_steps or 0
        self.step = 0
        self._largest_batch = config.student_batch_size

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        rate = self._checked_rate()
        self._check_passes(len(synthetic.labels))
        everything, samples = torch.arange(len(synthetic.labels), device=synthetic.labels.device), self.config.samples
        items = synthetic(everything.repeat(samples), generator)
        labels = class_probabilities(synthetic, self.num_classes, items.dtype).to(items.device).repeat(samples, 1)
        count = self.config.trajectories_per_step
        ends = [self._student(items.detach(), labels.detach(), generator) for _ in range(count)]
        loss = sum(end.loss for end in ends) / count
        of_items, of_labels, of_rate = (
            torch.stack([getattr(end, name) for end in ends]).mean(0) for name in ("items", "labels", "rate")
        )
        if not all(gradient.isfinite().all() for gradient in (of_items, of_labels, of_rate)):
            raise NonFiniteLossError(
                f"the gradient of a student's end is not finite at a student rate of {rate:.3g}; lower "
                "objective.student_rate or objective.student_steps"
            )
        items.backward(of_items)
        if labels.requires_grad:
            labels.backward(of_labels)
        if self.student_rate.requires_grad:
            of_rate = of_rate.to(self.student_rate.dtype)
            self.student_rate.grad = of_rate if self.student_rate.grad is None else self.student_rate.grad + of_rate
        self.step += 1
        return {"loss": loss, "student_rate": rate}

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        if not self.student_rate.requires_grad:
            return ()
        return ({"params": [self.student_rate], "lr": self.config.student_rate_learning_rate, "momentum": 0.5},)

    def resume_state(self) -> Mapping[str, Tensor]:
        sizes = {"step": torch.tensor(self.step), "kept_steps": torch.tensor(self.kept_steps)}
        return {**super().resume_state(), **sizes}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        super().resume(state)
        self.step = int(state.get("step", self.step))
        self.kept_steps = min(self.kept_steps, int(state.get("kept_steps", self.kept_steps)))

    def learned(self) -> Mapping[str, float]:
        return {"student_rate": self._checked_rate()}

    def halve_memory(self) -> bool:
        """Kept graphs go first. False too where all steps are one graph, whose size chunks do not change."""
        if self.kept_steps and self.config.gradient != "unrolled":
            self.kept_steps //= 2
            return True
        size = min(self.chunk_items, self._largest_batch or self.chunk_items)
        if size == 1 or self.config.gradient == "unrolled":
            return False
        self.chunk_items = size // 2
        return True

    def _check_passes(self, num_items: int) -> None:
        batch = min(self.config.student_batch_size or num_items, num_items)
        passes = math.ceil(self.config.student_steps / math.ceil(num_items / batch))
        if self.config.samples > passes:
            raise InputError(
                f"{self.config.samples} samples are more than the {passes} times that a student of "
                f"{self.config.student_steps} steps of {batch} items goes through all {num_items}; lower samples"
            )

    def _checked_rate(self) -> float:
        rate = float(self.student_rate.detach())
        if not rate > 0:
            raise InputError(
                f"the learned student rate is {rate:.3g}; it must stay above 0: "
                f"lower objective.student_rate_learning_rate (now {self.config.student_rate_learning_rate:.3g})"
            )
        return rate

    def _student(self, items: Tensor, labels: Tensor, generator: torch.Generator) -> EndGradients:
        """One student from a drawn expert and start."""
        channels, height, width = items.shape[1:]
        num_items = len(items) // self.config.samples
        self._largest_batch = min(self.config.student_batch_size or num_items, num_items)
        start, target = self._segment(generator, items)
        training = Training(
            network=self.network,
            start=start,
            target=target,
            items=items,
            labels=labels,
            rate=self.student_rate.detach().to(items.dtype),
            steps=draw_steps(
                (channels, height, width),
                num_items,
                self.config.student_steps,
                self.config.student_batch_size,
                self.augment,
                generator,
                self.config.samples,
            ),
            momentum=self.config.student_momentum,
            augmentation=self.augment,
            chunk_items=self.chunk_items,
            kept_steps=self.kept_steps,
        )
        if self.config.gradient == "unrolled":
            return unrolled_gradients(training)
        return adjoint_gradients(training, hessian=self.config.gradient == "adjoint")

    def _segment(self, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor]:
        """An expert's parameters at a start, and M epochs later."""
        expert = self.draw_expert(generator)
        earliest, latest = self.config.min_start_epoch, latest_start(self.config, self.step)
        epoch = int(torch.randint(earliest, latest + 1, (1,), generator=generator))
        start = self.expert_parameters(expert, epoch, like)
        target = self.expert_parameters(expert, epoch + self.config.expert_epochs, like)
        moved = float((start - target).square().sum())
        if not 0 < moved < float("inf"):
            raise InputError(
                f"expert {expert} moved by {moved:g} (squared) from epoch {epoch} to "
                f"{epoch + self.config.expert_epochs}, which nothing can be measured against; lower "
                "max_start_epoch, raise expert_epochs, or train experts at another learning rate (higher where 0)"
            )
        return start, target


def _check_length(config: TrajectoriesConfig, num_epochs: int) -> None:
    needed = config.max_start_epoch + config.expert_epochs
    if num_epochs < needed:
        raise InputError(
            f"experts of {num_epochs} epochs end before the latest start {config.max_start_epoch} plus "
            f"{config.expert_epochs} expert epochs; train them for {needed} epochs (experts.epochs) or lower "
            "max_start_epoch"
        )
