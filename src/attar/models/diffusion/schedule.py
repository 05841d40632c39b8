"""Noise levels: how much of a code is left at each, and which of them sampling visits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.shapes import Float

MOST_STEPS = 50
MOST_LEVELS = 10_000
_COSINE_OFFSET = 0.008
_LARGEST_COSINE_BETA = 0.999
_SMALLEST_BETA = 1e-8
SMALLEST_SHARE = 1e-12
"""The least share of a code's variance at the last level: predictions of z_0 are divided by its root."""


class ScheduleConfig(Config):
    """The noise that a model was trained with.

    Args:
        kind: of the betas: "linear"; "scaled-linear", linear in their square roots (Rombach et al. 2022); "cosine".
        num_levels: S, more than the steps of any sampling.
        first: beta of level 0; it has no effect on "cosine".
        last: beta of level S - 1; it has no effect on "cosine".

    Raises:
        ValueError: less than 1e-12 of the variance is left at the last level.
    """

    kind: Literal["linear", "scaled-linear", "cosine"] = "scaled-linear"
    num_levels: int = Field(default=1000, gt=MOST_STEPS, le=MOST_LEVELS)
    first: float = Field(default=0.0015, ge=_SMALLEST_BETA, lt=1)
    last: float = Field(default=0.0195, ge=_SMALLEST_BETA, lt=1)

    @model_validator(mode="after")
    def _leaves_something(self) -> ScheduleConfig:
        left = float(alpha_bars(self)[-1])
        if left < SMALLEST_SHARE:
            raise ValueError(
                f"of a code's variance {left:.1e} is left at the last level, and at least {SMALLEST_SHARE} is needed; "
                "take a lower last beta, or fewer levels"
            )
        return self


def alpha_bars(config: ScheduleConfig) -> Float[Tensor, " levels"]:
    """float64 [S]: the share of a code's variance that is left at each level.

        alpha_bar_s = prod_{r <= s} (1 - beta_r);   z_s = sqrt(alpha_bar_s) z + sqrt(1 - alpha_bar_s) eps

    Source: Ho et al. 2020, Eq. 4; Nichol & Dhariwal 2021, Eq. 17, for the cosine.
    """
    count = config.num_levels
    if config.kind == "cosine":
        places = (torch.arange(count + 1, dtype=torch.float64) / count + _COSINE_OFFSET) / (1 + _COSINE_OFFSET)
        shares = (places * math.pi / 2).cos().square()
        betas = (1 - shares[1:] / shares[:-1]).clamp_max(_LARGEST_COSINE_BETA)
    elif config.kind == "linear":
        betas = torch.linspace(config.first, config.last, count, dtype=torch.float64)
    else:
        betas = torch.linspace(config.first**0.5, config.last**0.5, count, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


class SamplingConfig(Config):
    """How a frozen model makes a code of a learned one.

    Args:
        num_steps: T, 1 to 50.
        solver: of a step: "ddim"; "ddpm", the posterior mean; "dpm", DPM-Solver++ of second order.
        guidance: s of classifier-free guidance, eps_null + s (eps_c - eps_null); 1 is without.
        eta: of the noise in a step, 0 (none) to 1 (all of the posterior's); 0 with "dpm".
        residual: w_t, what of its target enters step t: "linear" t / T (the paper), "cosine" (1 - cos(pi t / T)) / 2,
            "constant", or "none". Towards the clean code: (t - 1) / (T - 1) in place of t / T.
        residual_weight: w of "constant", in (0, 1); None otherwise.
        residual_target: "noisy" blends z_{t-1} with z_T (the paper), "clean" the prediction of z_0 with the learned
            code Z (the official code).
        grid: levels visited: "leading" (t - 1) floor(S / T) + 1 (Rombach et al. 2022), "trailing" round(t S / T) - 1.

    Raises:
        ValueError: a setting without effect, or a residual that leaves the model without any.

    Source: LD3M Eq. 12 and appendix A.3; its official code for the clean target.
    """

    num_steps: int = Field(default=10, ge=1, le=MOST_STEPS)
    solver: Literal["ddim", "ddpm", "dpm"] = "ddim"
    guidance: float = Field(default=3.0, ge=0, le=100)
    eta: float = Field(default=0.0, ge=0, le=1)
    residual: Literal["linear", "cosine", "constant", "none"] = "linear"
    residual_weight: float | None = Field(default=None, gt=0, lt=1)
    residual_target: Literal["noisy", "clean"] = "noisy"
    grid: Literal["leading", "trailing"] = "leading"

    @model_validator(mode="after")
    def _fits_together(self) -> SamplingConfig:
        if (self.residual == "constant") != (self.residual_weight is not None):
            raise ValueError("residual_weight belongs to residual 'constant' alone; give both or neither")
        if self.residual == "none" and self.residual_target != "noisy":
            raise ValueError("residual_target has no effect with residual 'none'; leave it out")
        if self.solver == "dpm" and self.eta:
            raise ValueError("solver 'dpm' adds no noise; set eta=0")
        varies = self.residual in ("linear", "cosine")
        if self.num_steps == 1 and varies and self.residual_target == "noisy":
            raise ValueError(
                f"in one step, residual {self.residual!r} is z_T alone and the model has no effect; take more steps, "
                "or residual=none"
            )
        return self

    def weight(self, step: int) -> float:
        """w_t of step t in T..1."""
        if self.residual in ("none", "constant"):
            return self.residual_weight or 0.0
        clean = self.residual_target == "clean"
        share = (step - 1) / max(1, self.num_steps - 1) if clean else step / self.num_steps
        return share if self.residual == "linear" else (1 - math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Step:
    """One step from a level to a lower one.

    Args:
        number: t, from T down to 1.
        level: of the schedule, where the model is asked.
        alpha_bar: of that level.
        alpha_bar_after: of the level after the step.
        deviation: sigma_t of the noise that is added.
        weight: w_t of the residual.
    """

    number: int
    level: int
    alpha_bar: float
    alpha_bar_after: float
    deviation: float
    weight: float


def steps_of(config: SamplingConfig, alpha_bars: Float[Tensor, " levels"]) -> list[Step]:
    """The T steps in the order they are taken, through a model of these `alpha_bars`.

        sigma_t = eta sqrt((1 - alpha_bar_{t-1}) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_{t-1})

    Source: Song et al. 2021 (DDIM), Eq. 16.
    """
    count, num_levels = config.num_steps, len(alpha_bars)
    if config.grid == "leading":
        levels = [(t - 1) * (num_levels // count) + 1 for t in range(1, count + 1)]
        shares = [float(alpha_bars[0])]
    else:
        levels = [round(t * num_levels / count) - 1 for t in range(1, count + 1)]
        shares = [1.0]
    shares += [float(alpha_bars[level]) for level in levels]
    steps = []
    for t in range(count, 0, -1):
        now, after = shares[t], shares[t - 1]
        deviation = config.eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
        steps.append(Step(t, levels[t - 1], now, after, deviation, config.weight(t)))
    return steps
