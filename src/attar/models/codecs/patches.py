"""Orthonormal functions on non-overlapping square patches: what the pca and dct codecs share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn import functional

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, CodecSettings

SMALLEST_SCALE = 1e-4  # a fortieth of a grey level: below it a channel is rounding noise and is not blown up
PATCHES_TO_FIT = 1_000_000
BLOCK_VALUES = 1 << 23

Scaling = Literal["whiten", "global", "none"]


class PatchConfig(CodecSettings):
    """Patches of `factor` x `factor` pixels become `channels` coefficients each.

    Args:
        factor: side of a patch in pixels; divides both sides of the images.
        channels: coefficients kept of each patch.
        scaling: "global" divides all coefficients by one number so that their mean square is 1; "whiten" divides each
            channel by its own root mean square; "none" leaves the orthonormal projection.
    """

    affine = True
    factor: Annotated[int, Field(ge=1, le=64)] = 4
    channels: Annotated[int, Field(ge=1, le=3 * 64 * 64)] = 4
    scaling: Scaling = "global"

    @classmethod
    def from_text(cls, name: str, settings: str) -> PatchConfig:
        if not settings:
            return cls()  # type: ignore[call-arg]
        text = f"{name}:{settings}"
        match = re.fullmatch(r"f(\d{1,4})c(\d{1,5})(?:-(whiten|global|none))?", settings)
        if match is None:
            raise InputError(
                f"codec {text!r}: write e.g. {name}:f4c4 (4 x 4 patches to 4 channels) or {name}:f4c4-whiten"
            )
        factor, channels, scaling = match.groups("global")
        try:
            return cls(factor=int(factor), channels=int(channels), scaling=scaling)  # type: ignore[call-arg,arg-type]
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InputError(f"codec {text!r}: {fault['loc'][0]}: {fault['msg']}") from None


class PatchCodec(Codec):
    """Coefficients of every patch on a few orthonormal functions b_k.

        code_k = <b_k, patch - mean> / scale_k,        patch ~ mean + sum_k scale_k code_k b_k

    Decoding is the pseudo-inverse of encoding, exactly: the closest image whose codes are the given ones.

    Args:
        spec: a PatchConfig and an image shape.
        basis: float32 [c, C, f, f], orthonormal over the last three axes.
        mean: float32 [C, f, f], the patch whose code is zero.
        scale: float32 [c], positive.
    """

    cheap = True
    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        spec: Any,
        basis: Float[Tensor, "c C f f"],
        mean: Float[Tensor, "C f f"],
        scale: Float[Tensor, " c"],
    ) -> None:
        super().__init__()
        self.image_shape = spec.image_shape
        self.code_shape = patch_code_shape(spec.image_shape, spec.factor, spec.channels)
        self.whitened_name = f"{self.kind}:f{spec.factor}c{spec.channels}-whiten"
        self._spec = spec
        for name, tensor in (("basis", basis), ("mean", mean), ("scale", scale)):
            self.register_buffer(name, tensor, persistent=False)

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        analysis = self.basis / self.scale[:, None, None, None]
        return functional.conv2d(images, analysis, -(analysis * self.mean).sum((1, 2, 3)), stride=self.basis.shape[-1])

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        synthesis = self.basis * self.scale[:, None, None, None]
        images = functional.conv_transpose2d(codes, synthesis, stride=self.basis.shape[-1])
        return images + self.mean.repeat(1, codes.shape[2], codes.shape[3])


def patch_code_shape(image_shape: tuple[int, int, int], factor: int, channels: int) -> tuple[int, int, int]:
    """(c, h, w) of patches of `factor` pixels a side with `channels` coefficients each. Raises InputError."""
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
    """Blocks of float64 patches in [0, 1] of a fixed sample of the images, about `PATCHES_TO_FIT` in all.

    Raises:
        InputError: there are no images.
    """
    colours, height, width = images.image_shape
    num_images = max(1, PATCHES_TO_FIT * factor * factor // (height * width))
    indices = fixed_sample(len(images), num_images, "patches")
    if not len(indices):
        raise InputError("there are no images to fit the codec on; give at least one")
    for block in indices.split(max(1, BLOCK_VALUES // (colours * height * width))):
        yield patches(images.images[block].double() / 255, factor)


def fixed_sample(num_images: int, most: int, purpose: str) -> Int64[Tensor, " images"]:
    """Indices of at most `most` of the images in ascending order; the same in every call for this purpose."""
    if num_images <= most:
        return torch.arange(num_images)
    return torch.randperm(num_images, generator=generator(0, purpose))[:most].sort().values


def channel_scales(mean_squares: Float[Tensor, " c"], scaling: Scaling) -> Float[Tensor, " c"]:
    """What each channel is divided by: its own root mean square, one for all, or 1."""
    if scaling == "none":
        return torch.ones_like(mean_squares)
    if scaling == "global":
        mean_squares = mean_squares.mean().expand_as(mean_squares)
    return mean_squares.clamp_min(SMALLEST_SCALE**2).sqrt().contiguous()
