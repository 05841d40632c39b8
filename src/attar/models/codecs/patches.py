"""Orthonormal functions on non-overlapping square patches: what the pca and dct codecs share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.data.image_set import ImageSet

Scaling = Literal["whiten", "global", "none"]

SMALLEST_SCALE = 1e-4  # a fortieth of a grey level: below it a channel is rounding noise and is not blown up
PATCHES_TO_FIT = 1_000_000
BLOCK_VALUES = 1 << 23


class PatchBasis(nn.Module):
    """Coefficients of every patch on a few orthonormal functions b_k.

        code_k = <b_k, patch - mean> / scale_k,        patch ~ mean + sum_k scale_k code_k b_k

    Decoding is the pseudo-inverse of encoding, exactly: the closest image whose codes are the given ones.

    Args:
        basis: float32 [c, C, f, f], orthonormal over the last three axes.
        mean: float32 [C, f, f], the patch whose code is zero.
        scale: float32 [c], positive.
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        basis: Float[Tensor, "c C f f"],
        mean: Float[Tensor, "C f f"],
        scale: Float[Tensor, " c"],
    ) -> None:
        super().__init__()
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        """A convolution whose stride is the patch."""
        analysis = self.basis / self.scale[:, None, None, None]
        return functional.conv2d(images, analysis, -(analysis * self.mean).sum((1, 2, 3)), stride=self.basis.shape[-1])

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        """The transposed convolution, and the mean patch everywhere."""
        synthesis = self.basis * self.scale[:, None, None, None]
        images = functional.conv_transpose2d(codes, synthesis, stride=self.basis.shape[-1])
        return images + self.mean.repeat(1, codes.shape[2], codes.shape[3])


def patch_code_shape(image_shape: tuple[int, int, int], factor: int, channels: int) -> tuple[int, int, int]:
    """(c, h, w) of patches of `factor` pixels a side with `channels` coefficients each.

    Raises:
        InputError: the factor does not divide both sides, or a patch has fewer values than coefficients are asked for.
    """
    colours, height, width = image_shape
    if height % factor or width % factor:
        common = math.gcd(height, width)
        allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise InputError(f"factor {factor} does not divide images of {height} x {width}; allowed factors: {allowed}")
    if channels > colours * factor * factor:
        raise InputError(
            f"{channels} channels are asked for, but a {factor} x {factor} patch of {colours} colours holds only "
            f"{colours * factor * factor} values; ask for fewer channels or a larger factor"
        )
    return channels, height // factor, width // factor


def patches(images: Float[Tensor, "items C H W"], factor: int) -> Float[Tensor, "patches values"]:
    """Every non-overlapping patch as one row of C f f values."""
    items, colours, height, width = images.shape
    split = images.reshape(items, colours, height // factor, factor, width // factor, factor)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(-1, colours * factor * factor)


def patch_blocks(images: ImageSet, factor: int) -> Iterator[Float[Tensor, "patches values"]]:
    """Blocks of float64 patches in [0, 1] of a fixed sample of the images, about `PATCHES_TO_FIT` in all."""
    colours, height, width = images.image_shape
    wanted = max(1, PATCHES_TO_FIT * factor * factor // (height * width))
    indices = torch.arange(len(images))
    if wanted < len(images):
        indices = torch.randperm(len(images), generator=generator(0, "patches"))[:wanted].sort().values
    for block in indices.split(max(1, BLOCK_VALUES // (colours * height * width))):
        yield patches(images.images[block].double() / 255, factor)


def channel_scales(mean_squares: Float[Tensor, " c"], scaling: Scaling) -> Float[Tensor, " c"]:
    """What each channel is divided by: its own root mean square, one for all, or 1."""
    if scaling == "none":
        return torch.ones_like(mean_squares)
    if scaling == "global":
        mean_squares = mean_squares.mean().expand_as(mean_squares)
    return mean_squares.clamp_min(SMALLEST_SCALE**2).sqrt().contiguous()
