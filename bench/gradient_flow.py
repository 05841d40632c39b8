"""How much of a gradient reaches the codes through a diffusion model, and how much of it is noise.

`python bench/gradient_flow.py PRIOR [--json OUT] [--plot docs/images/gradient-flow.png]`, where PRIOR is a file that
`attar train-prior digits` wrote. Codes are those of one digit of each class; guidance 3, eta 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from attar.base.process import prepare_process

prepare_process()

import torch
from torch import Tensor

from attar.base.files import atomic_path, refuse_existing
from attar.base.randomness import generator
from attar.data.sources import load_images
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.models.codecs.registry import restore_codec
from attar.models.diffusion.codec import DiffusionCodec
from attar.models.diffusion.priors import read_prior
from small_sets import first_items

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
    flows = []
    for residual in residuals:
        for count in num_steps:
            changes = {"num_steps": count, "residual": residual, "residual_weight": None, "residual_target": "noisy"}
            sampling = type(items.config.sampling)(**{**items.config.sampling.model_dump(), **changes})
            config = items.config.model_copy(update={"sampling": sampling, "learned": "both"})
            draws = []
            for draw in range(num_draws):
                drawn = generator(seed, "draw", draw).initial_seed()
                rendered = Diffusion(
                    items.codec,
                    items.codes,
                    items.labels,
                    config,
                    drawn,
                    preprocess=items.preprocess,
                    conditioning=items.conditioning,
                )
                rendered.chunk_items = items.chunk_items
                draws.append(
                    torch.autograd.grad((rendered(everything) * functional).sum(), rendered.codes)[0].flatten(1)
                )
            flows.append(_flow(residual, count, torch.stack(draws)))
    return flows


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
    """Norm and ratio of gradients [draws, items, values]."""
    mean = draws.mean(0)
    spread = (draws - mean).norm(dim=2).square().mean(0).sqrt()
    ratio = (mean.norm(dim=1) / spread.clamp_min(torch.finfo(spread.dtype).tiny)).mean()
    return GradientFlow(residual, num_steps, float(draws.norm(dim=2).mean()), float(ratio))


def main() -> None:
    """Measure a prior of the digits, print the figures, and draw them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them, a .png; replaced where it exists")
    options = parser.parse_args()
    prior, train = read_prior(options.prior, restore_codec), load_images("digits").train
    codes, labels = prior.codec.encode(train.images[first_items(train, 1)].float() / 255), torch.arange(10)
    codec = DiffusionCodec(prior.codec, prior.model)
    flows = gradient_flow(Diffusion(codec, codes, labels, DiffusionConfig(), 0, preprocess=prior.codec, classes=labels))
    for flow in flows:
        print(f"{flow.residual:>6}  T {flow.num_steps:>2}  norm {flow.norm:.3f}  ratio {flow.signal_to_noise:.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(flow) for flow in flows], indent=1))
    if options.plot:
        plot_gradient_flow(flows, options.plot, overwrite=True)


if __name__ == "__main__":
    main()
