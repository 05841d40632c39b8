"""A vision transformer of ViT-Tiny's size, for images of 32 to 256 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig

WIDTH, DEPTH, HEADS = 192, 12, 3
LARGEST_PATCH = 16
PATCHES_ASIDE = 8


class Vit(Network):
    """Patches with learned positions and a class token, twelve blocks of attention, one linear layer.

        x <- x + attention(norm(x)),   x <- x + W_2 gelu(W_1 norm(x))

    The patch's side is the largest power of two that leaves eight patches along the smaller side, at most 16: 4 at 32
    pixels, 8 at 64, 16 from 128 on. Sides that it does not divide are padded with zeros below and on the right. The
    keys of the state dict, and at patch 16 the shapes, are those of timm's vit_tiny_patch16 of the same image size.

    Source: Dosovitskiy et al. 2021; sizes of Touvron et al. 2021 (DeiT-Ti).
    Deviation: layers are drawn by PyTorch's default law, as every network here; tokens and positions from N(0, .02^2).
        Neither dropout nor stochastic depth.
    """

    last_layer = "head"

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        channels, height, width = input_shape
        power = int(math.log2(max(1, min(height, width) // PATCHES_ASIDE)))
        self.patch = min(LARGEST_PATCH, 2**power)
        self.grid = (math.ceil(height / self.patch), math.ceil(width / self.patch))
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, WIDTH, self.patch, stride=self.patch)})
        self.blocks = nn.ModuleList(_Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, num_classes)

    @torch.no_grad()
    def draw_own(self, generator: torch.Generator) -> None:
        """Draw what belongs to no layer: the class token and the positions."""
        for parameter in (self.cls_token, self.pos_embed):
            values = torch.empty(parameter.shape, device=generator.device)
            parameter.copy_(values.normal_(0, 0.02, generator=generator))

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """The blocks, which map tokens to tokens."""
        return [(block, True) for block in self.blocks]

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        return super().features(self._tokens(inputs))

    def pooled(self, maps: Tensor) -> Tensor:
        """The class token after the last norm."""
        return self.norm(maps)[:, 0]

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """The patches' tokens after every block, as maps."""
        for tokens in super().block_maps(self._tokens(inputs)):
            yield tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)

    def _tokens(self, inputs: Tensor) -> Tensor:
        height, width = inputs.shape[-2:]
        missing = (self.grid[0] * self.patch - height, self.grid[1] * self.patch - width)
        padded = F.pad(inputs, (0, missing[1], 0, missing[0])) if any(missing) else inputs
        patches = self.patch_embed["proj"](padded).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed


class _Block(nn.Module):
    """Attention and a layer of four times the width, each with a shortcut; names and order are timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))


class _Attention(nn.Module):
    """Three heads of 64 values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))
