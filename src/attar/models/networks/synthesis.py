"""A small class-conditional generator in styles: attar's own, in the manner of StyleGAN."""

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

SMALLEST_SIDE = 4
LAYERS_PER_SIDE = 2
_NARROWEST = 8
_GROUPS = 8
_SLOPE = 0.2


class SynthesisConfig(Config):
    """A generator without its image shape and number of classes.

    Args:
        width: channels of the smallest maps, of about 4 x 4; they halve where sides double, down to 8.
        latent_size: d of w.
        noise_size: of z.
    """

    width: int = Field(default=64, ge=8, le=2048)
    latent_size: int = Field(default=32, ge=1, le=4096)
    noise_size: int = Field(default=16, ge=1, le=4096)


class Synthesis(nn.Module):
    """Images from w, which a mapping network makes of noise and class; two layers for each size of maps.

        w = W_2 leaky(W_1 [z; e_y]),   f_n = leaky(norm(conv(f_{n-1})) (1 + A_n w) + B_n w),
        image = 1/2 + to_image(f_{N+1})

    `num_layers` is N; the layer before the image is not among them, so that w counts whatever the depth.

    Source: Karras et al. 2019, in small: no noise of its own, so that an image is a function of w alone.
    """

    def __init__(self, config: SynthesisConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.config, self.image_shape, self.num_classes = config, image_shape, num_classes
        self.latent_shape, self.noise_size = (config.latent_size,), config.noise_size
        colours, height, width = image_shape
        doublings = max(0, math.ceil(math.log2(max(height, width) / SMALLEST_SIDE)))
        sides = [-(-side // 2**doublings) for side in (height, width)]
        widths = [max(_NARROWEST, config.width >> level) for level in range(doublings + 1)]
        self.num_layers = LAYERS_PER_SIDE * len(widths)
        self.classes = nn.Embedding.from_pretrained(torch.empty(num_classes, config.noise_size), freeze=False)
        self.enter = nn.Linear(2 * config.noise_size, config.latent_size)
        self.leave = nn.Linear(config.latent_size, config.latent_size)
        self.first = nn.Parameter(torch.empty(1, widths[0], *sides))
        every = [widths[0], *(width for width in widths for _ in range(LAYERS_PER_SIDE))]
        self.layers = nn.ModuleList(
            _Layer(before, after, config.latent_size, grows=number > 0 and number % LAYERS_PER_SIDE == 0)
            for number, (before, after) in enumerate(pairwise(every))
        )
        self.last = _Layer(widths[-1], widths[-1], config.latent_size, grows=False)
        self.to_image = nn.Conv2d(widths[-1], colours, 1)

    def mapping(self, noise: Float[Tensor, "batch z"], classes: Int64[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """Maps noise from N(0, I) and a class to w."""
        entered = self.enter(torch.cat([noise, self.classes(classes)], 1))
        return self.leave(F.leaky_relu(entered, _SLOPE))

    def features(self, latents: Float[Tensor, "batch d"], depth: int) -> Float[Tensor, "batch c h w"]:
        """f_depth, the map after the first `depth` layers, 1 to N."""
        maps = self.first.expand(len(latents), -1, -1, -1)
        for layer in self.layers[:depth]:
            maps = layer(maps, latents)
        return maps

    def forward(
        self, latents: Float[Tensor, "batch d"], features: Tensor | None = None, depth: int = 0
    ) -> Float[Tensor, "batch C H W"]:
        """Images, nominally in [0, 1]: of w alone, or with f_depth in place of what the first `depth` layers make."""
        maps = self.first.expand(len(latents), -1, -1, -1) if features is None else features
        for layer in self.layers[depth:]:
            maps = layer(maps, latents)
        _, height, width = self.image_shape
        return (0.5 + self.to_image(self.last(maps, latents)))[:, :, :height, :width]


def synthesis_shell(config: SynthesisConfig, image_shape: tuple[int, int, int], num_classes: int) -> Synthesis:
    """A generator of names and shapes without values, on the meta device; InputError above 2^28 values."""
    return bounded_shell(lambda: Synthesis(config, image_shape, num_classes), "generator")


def build_synthesis(
    config: SynthesisConfig, image_shape: tuple[int, int, int], num_classes: int, generator: torch.Generator
) -> Synthesis:
    """A generator on the CPU in float32: PyTorch's default law, the first map and classes from N(0, 1)."""
    network = synthesis_shell(config, image_shape, num_classes).to_empty(device="cpu")
    with torch.no_grad():
        network.first.normal_(generator=generator)
        network.classes.weight.normal_(generator=generator)
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                initialise_parameters(layer, generator)
    return network


class _Layer(nn.Module):
    """Convolution, norm, scale and shift by w; on maps of twice the sides where it grows."""

    def __init__(self, before: int, after: int, latent_size: int, grows: bool) -> None:
        super().__init__()
        self.grows = grows
        self.convolution = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(_GROUPS, after), after, affine=False)
        self.style = nn.Linear(latent_size, 2 * after)

    def forward(self, maps: Tensor, latents: Tensor) -> Tensor:
        if self.grows:
            maps = F.interpolate(maps, scale_factor=2.0)
        scale, shift = self.style(latents)[:, :, None, None].chunk(2, 1)
        return F.leaky_relu(self.norm(self.convolution(maps)) * (1 + scale) + shift, _SLOPE)
