"""Gradient flow: how much of a gradient reaches the codes through a diffusion model, and how much of it is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from attar.base.files import atomic_path, refuse_existing
from attar.base.randomness import generator
from attar.methods.parameterizations.diffusion import Diffusion

Residual = Literal["linear", "none", "cosine"]


@dataclass(frozen=True)
class GradientFlow:
    """The gradient at Z of one setting, mean over items.

    Args:
        residual: of the sampling.
        num_steps: T.
        norm: mean over draws of ||g||.
        signal_to_noise: ||mean g|| over the root mean square of ||g - mean g||.
    """

    residual: Residual
    num_steps: int
    norm: float
    signal_to_noise: float


def gradient_flow(
    items: Diffusion,
    num_steps: Sequence[int] = (5, 10, 20, 40),
    residuals: Sequence[Residual] = ("linear", "none"),
    num_draws: int = 8,
    seed: int = 0,
) -> list[GradientFlow]:
    """Measure the gradient at the codes of a fixed linear functional of the network inputs, over draws of the noise.

    Args:
        items: whose codes, conditioning, model and other settings are used.
        num_steps: T of each measurement, 2 to 50.
        residuals: w_t of each measurement.
        num_draws: seeds of the items' noise, at least 2.
        seed: of the functional and of the draws.

    Returns:
        One for each residual and T.

    Source: LD3M section 4.2 and Figure 7.
    Deviation: the ratio is that of the gradients, not of their norms, and its noise is that of eps alone.
    """
    if num_draws < 2:
        raise ValueError(f"{num_draws} draws have no spread; take at least 2")
    everything = torch.arange(len(items), device=items.labels.device)
    shape = (len(items), *items.preprocess.code_shape)
    functional = torch.randn(shape, generator=generator(seed, "functional")).to(items.codes)
    found = []
    for residual in residuals:
        for count in num_steps:
            told = {"num_steps": count, "residual": residual, "residual_weight": None, "residual_target": "noisy"}
            sampling = type(items.config.sampling)(**{**items.config.sampling.model_dump(), **told})
            config = items.config.model_copy(update={"sampling": sampling, "learned": "both"})
            draws = []
            for draw in range(num_draws):
                drawn = generator(seed, "draw", draw).initial_seed()
                made = Diffusion(
                    items.codec,
                    items.codes,
                    items.labels,
                    config,
                    drawn,
                    preprocess=items.preprocess,
                    conditioning=items.conditioning,
                )
                made.chunk_items = items.chunk_items
                draws.append(torch.autograd.grad((made(everything) * functional).sum(), made.codes)[0].flatten(1))
            found.append(_flow(residual, count, torch.stack(draws)))
    return found


def plot_gradient_flow(flows: Sequence[GradientFlow], out: Path | str, *, overwrite: bool = False) -> Path:
    """Write a PNG of norm and signal-to-noise ratio against T, a line for each residual."""
    from matplotlib.figure import Figure

    from attar.evaluation.plots import COLOURS, MARKERS

    path = Path(out)
    refuse_existing(path, overwrite)
    figure = Figure(figsize=(7, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, residual in enumerate(dict.fromkeys(flow.residual for flow in flows)):
        rows = [flow for flow in flows if flow.residual == residual]
        for axes, values in zip(panels, ("norm", "signal_to_noise"), strict=True):
            heights = [getattr(row, values) for row in rows]
            style = {"color": COLOURS[number], "marker": MARKERS[number], "label": f"residual {residual}"}
            axes.plot([row.num_steps for row in rows], heights, **style)
    for axes, name in zip(panels, ("gradient norm at Z", "signal-to-noise ratio"), strict=True):
        axes.set(xlabel="diffusion steps T", ylabel=name)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    return path


def _flow(residual: Residual, num_steps: int, draws: Tensor) -> GradientFlow:
    """Of gradients [draws, items, values]."""
    mean = draws.mean(0)
    spread = (draws - mean).norm(dim=2).square().mean(0).sqrt()
    ratio = (mean.norm(dim=1) / spread.clamp_min(torch.finfo(spread.dtype).tiny)).mean()
    return GradientFlow(residual, num_steps, float(draws.norm(dim=2).mean()), float(ratio))
