"""A small class-conditional U-Net that predicts noise: attar's own diffusion prior."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.shapes import Float, Int64
from attar.models.networks.network import bounded_shell, initialise_parameters

FREQUENCIES = 32
_GROUPS = 8
_SLOWEST = 1e4
_EMBEDDING_STD = 0.1


class DenoiserConfig(Config):
    """A denoiser without its code shape and number of classes.

    Args:
        width: channels of the largest maps; they double from level to level.
        levels: map sizes, each half the one before.
        conditioning_size: d, of the conditioning vector that embeds a class.
    """

    width: int = Field(default=32, ge=8, le=1024)
    levels: int = Field(default=2, ge=1, le=6)
    conditioning_size: int = Field(default=64, ge=1, le=4096)


class Denoiser(nn.Module):
    """A U-Net that predicts the noise in codes from the codes, their noise level and a conditioning.

        e = c + W_2 silu(W_1 [cos(w_k t), sin(w_k t)]),   eps = U-Net(z; e)

    One residual block a level on the way down and one on the way up, attention between two blocks at the bottom. Codes
    (c, h, w) may have odd sides. `classes` has the conditioning of every class; its row K is no class, for guidance.

    Source: Ho et al. 2020 and Nichol & Dhariwal 2021, in small.
    """

    def __init__(self, config: DenoiserConfig, code_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.config, self.code_shape, self.num_classes = config, code_shape, num_classes
        size = config.conditioning_size
        widths = [config.width << level for level in range(config.levels)]
        # Without values: their default law on the meta device would import the compiler, a second for nothing.
        self.classes = nn.Embedding.from_pretrained(torch.empty(num_classes + 1, size), freeze=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size))
        self.first = nn.Conv2d(code_shape[0], widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Residual(before, after, size) for before, after in pairwise([widths[0], *widths]))
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = nn.ModuleList(_Residual(widths[-1], widths[-1], size) for _ in range(2))
        self.attention = _Attention(widths[-1])
        above = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(_Residual(wide + width, width, size) for wide, width in zip(above, widths, strict=True))
        self.last = nn.Sequential(_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], code_shape[0], 3, padding=1))

    def forward(
        self,
        codes: Float[Tensor, "batch c h w"],
        levels: Int64[Tensor, " batch"],
        conditioning: Float[Tensor, "batch d"],
    ) -> Float[Tensor, "batch c h w"]:
        """The noise eps in codes sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps of levels 0 to the schedule's last.

        The conditioning is `classes` of the items, or anything learned in its place.
        """
        embedded = conditioning + self.time(_waves(levels).to(codes.dtype))
        maps, skips = self.first(codes), list[Tensor]()
        for level, block in enumerate(self.down):
            maps = block(maps if level == 0 else self.halve[level - 1](maps), embedded)
            skips.append(maps)
        maps = self.middle[1](self.attention(self.middle[0](maps, embedded)), embedded)
        for level in reversed(range(len(skips))):
            if maps.shape[-2:] != skips[level].shape[-2:]:
                maps = F.interpolate(maps, size=skips[level].shape[-2:])
            maps = self.up[level](torch.cat([maps, skips[level]], 1), embedded)
        return self.last(maps)


def denoiser_shell(config: DenoiserConfig, code_shape: tuple[int, int, int], num_classes: int) -> Denoiser:
    """A denoiser of names and shapes without values, on the meta device; InputError above 2^28 values."""
    return bounded_shell(lambda: Denoiser(config, code_shape, num_classes), "denoiser")


def build_denoiser(
    config: DenoiserConfig, code_shape: tuple[int, int, int], num_classes: int, generator: torch.Generator
) -> Denoiser:
    """A denoiser on the CPU in float32: PyTorch's default law, embeddings of classes from N(0, 0.1^2)."""
    denoiser = denoiser_shell(config, code_shape, num_classes).to_empty(device="cpu")
    with torch.no_grad():
        for layer in denoiser.modules():
            if isinstance(layer, nn.Embedding):
                layer.weight.normal_(0, _EMBEDDING_STD, generator=generator)
            elif not list(layer.children()):
                initialise_parameters(layer, generator)
    return denoiser


class _Residual(nn.Module):
    """x + convolution(silu(norm(convolution(silu(norm(x))) + W e)))."""

    def __init__(self, before: int, after: int, size: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(_norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.embedded = nn.Sequential(nn.SiLU(), nn.Linear(size, after))
        self.leave = nn.Sequential(_norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.skip: nn.Module = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, maps: Tensor, embedded: Tensor) -> Tensor:
        inner = self.enter(maps) + self.embedded(embedded)[:, :, None, None]
        return self.skip(maps) + self.leave(inner)


class _Attention(nn.Module):
    """Attention with one head between all places of a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.asked = nn.Conv2d(width, 3 * width, 1)
        self.told = nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        query, key, value = self.asked(self.norm(maps)).flatten(2).transpose(1, 2).chunk(3, -1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return maps + self.told(attended.transpose(1, 2).reshape(maps.shape))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, width), width)


def _waves(levels: Tensor) -> Tensor:
    """[B, 2 FREQUENCIES]: cosines and sines of a level at frequencies from 1 to 1 / 10,000."""
    exponents = torch.arange(FREQUENCIES, dtype=torch.float32, device=levels.device) / FREQUENCIES
    angles = levels[:, None].float() * torch.exp(-math.log(_SLOWEST) * exponents)
    return torch.cat([angles.cos(), angles.sin()], 1)
