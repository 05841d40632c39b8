"""Whether a diffusion prior has learnt its codes: its loss against a linear filter's, its samples against the codes."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import NonFiniteLossError
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.models.diffusion.model import DiffusionModel
from attar.models.diffusion.sampling import sampled
from attar.models.diffusion.schedule import SamplingConfig

MOST_CODES = 64
NUM_LEVELS = 32
SAMPLING = SamplingConfig(num_steps=20, guidance=1, residual="none")
WIDEST = 2.0
"""How many times as wide as codes, or as narrow, samples may spread before they are a fault."""

SLACK = 1.2
"""How many times the filter's loss a prior's may be. The filter is the best model of independent codes."""


class Fidelity(Config):
    """How well a prior models its own codes.

    Args:
        loss: of its averaged weights, over all levels alike; predicting nothing gives 1.
        linear_loss: of the best linear filter of codes of this spread.
        spread: standard deviation of its samples over that of the codes.
    """

    loss: float = Field(ge=0)
    linear_loss: float = Field(ge=0, le=1)
    spread: float = Field(ge=0)

    @property
    def fault(self) -> str | None:
        """What is wrong with the prior, in one line; None where nothing is."""
        mend = "it has diverged, or had too few steps; lower learning_rate, or raise steps"
        if self.loss > SLACK * self.linear_loss:
            return f"the prior predicts noise no better than a linear filter does ({self}): {mend}"
        if not 1 / WIDEST <= self.spread <= WIDEST:
            return f"samples of the prior are not spread like its codes ({self}): {mend}"
        return None

    def __str__(self) -> str:
        losses = f"loss {self.loss:.3f}, a linear filter's {self.linear_loss:.3f}"
        return f"{losses}, samples {self.spread:.2f} times as wide as codes"


@torch.no_grad()
def fidelity_of(
    model: DiffusionModel, codes: Float[Tensor, "items c h w"], labels: Int64[Tensor, " items"], seed: int
) -> Fidelity:
    """Measure a prior on some of its codes and levels, both evenly spaced.

    Args:
        model: on any device.
        codes: on the CPU.
        labels: the model's classes of the codes.
        seed: of the noise.

    Raises:
        NonFiniteLossError: its loss or samples are not finite.
    """
    chosen = torch.linspace(0, len(codes) - 1, min(MOST_CODES, len(codes))).long()
    device = model.null.device
    some, conditioning = codes[chosen].to(device), model.embed(labels[chosen])
    draw = generator(seed, "fidelity of a prior")

    def drawn(step: int) -> Tensor:
        return torch.randn(some.shape, generator=draw).to(device)

    levels = torch.linspace(0, len(model.alpha_bars) - 1, NUM_LEVELS).long().tolist()
    losses = []
    for level in levels:
        share, noise = float(model.alpha_bars[level]), drawn(0)
        predicted = model.predict(share**0.5 * some + (1 - share) ** 0.5 * noise, level, conditioning)
        losses.append(float((predicted - noise).square().mean()))
    samples = sampled(model, SAMPLING, torch.zeros_like(some), conditioning, drawn, checkpointed=False)
    if not bool(samples.isfinite().all()) or not bool(torch.tensor(losses).isfinite().all()):
        raise NonFiniteLossError("the prior's predictions are not finite; lower learning_rate")
    spread = samples.std() / some.std().clamp_min(torch.finfo(some.dtype).tiny)
    return Fidelity(loss=sum(losses) / len(losses), linear_loss=linear_loss(model, some), spread=float(spread))


def linear_loss(model: DiffusionModel, codes: Float[Tensor, "items c h w"]) -> float:
    """Loss of the best prediction of noise that is linear in each value and knows its channel's variance v alone.

    L = mean_s  a_s v / (a_s v + 1 - a_s),   a = alpha_bar
    """
    variances = codes.double().var((0, 2, 3), unbiased=False).cpu()[:, None]
    signal = model.alpha_bars * variances
    return float((signal / (signal + 1 - model.alpha_bars)).mean())
