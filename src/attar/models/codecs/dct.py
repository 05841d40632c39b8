"""Patch DCT: a closed-form codec; nothing of the data is stored but its scale."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.patches import PatchCodec, PatchConfig, channel_scales, patch_blocks, patch_code_shape
from attar.models.codecs.restoring import CodecSpec, parse_spec, take_tensors

Scale = Annotated[float, Field(ge=1e-5, le=1e5)]


class DctConfig(PatchConfig):
    """Patches become their lowest frequencies, in the order of `dct_order`; root mean squares are about mid-grey."""

    kind: Literal["dct"] = "dct"
    names = ("dct",)

    def fit(self, images: ImageSet) -> Dct:
        """The closed-form basis, and its scale measured on the images (a fixed sample of about a million patches).

        Raises:
            InputError: no images; the factor does not divide their sides; more channels than values in a patch.
        """
        patch_code_shape(images.image_shape, self.factor, self.channels)
        basis = dct_basis(images.image_shape[0], self.factor, self.channels).flatten(1)
        squares, count = torch.zeros(self.channels).double(), 0
        for block in patch_blocks(images, self.factor):
            squares += ((block - 0.5) @ basis.T).square().sum(0)
            count += len(block)
        scales = channel_scales(squares / count, self.scaling).float().tolist()
        scale = tuple(scales if self.scaling == "whiten" else scales[:1])
        return Dct(DctSpec(image_shape=images.image_shape, scale=scale, **self.model_dump()))


class DctSpec(CodecSpec, DctConfig):
    """A fitted DctConfig: the basis by name, and one scale or one for each channel."""

    basis: Literal["dct2-opponent-1"] = "dct2-opponent-1"
    scale: tuple[Scale, ...]


class Dct(PatchCodec):
    """The lowest frequencies of non-overlapping patches, luminance first, about mid-grey (0.5).

        b_{m,u,v}[c,y,x] = o_{m,c} a_u a_v cos(pi (2y+1) u / 2f) cos(pi (2x+1) v / 2f),   a_0^2 = 1/f, a_u^2 = 2/f

    o: luminance (1,1,1)/sqrt 3, blue (-1,-1,2)/sqrt 6, red (1,-1,0)/sqrt 2: YCbCr's directions made orthonormal, so
    that decoding is the exact pseudo-inverse. Stores no tensor: the basis follows from its name in the spec.
    """

    kind = "dct"

    def __init__(self, spec: DctSpec) -> None:
        basis = dct_basis(spec.image_shape[0], spec.factor, spec.channels).float()
        scale = torch.tensor(spec.scale, dtype=torch.float32).expand(spec.channels).contiguous()
        super().__init__(spec, basis, torch.full(basis.shape[1:], 0.5), scale)

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Dct:
        parsed = parse_spec(DctSpec, spec)
        take_tensors(tensors, {})
        num_scales = parsed.channels if parsed.scaling == "whiten" else 1
        if len(parsed.scale) != num_scales:
            raise InputError(
                f"the dct codec has {len(parsed.scale)} scales; {num_scales} are needed; the file is damaged"
            )
        patch_code_shape(parsed.image_shape, parsed.factor, parsed.channels)
        return cls(parsed)


def dct_order(colours: int, factor: int) -> list[tuple[int, int, int]]:
    """All (component m, vertical frequency u, horizontal frequency v) of a patch, in the order in which they are kept.

    By level: u + v for luminance, 1 + 2 (u + v) for colour, which is smoother; within a level luminance, blue, red;
    then along the zig-zag. For RGB this begins Y00, Y01, Y10, B00, R00, Y20, Y11, Y02 (about the order of their
    variances in CIFAR-10).
    """
    triples = [(m, u, v) for m in range(colours) for u in range(factor) for v in range(factor)]
    return sorted(triples, key=_level)


def dct_basis(colours: int, factor: int, channels: int) -> Float[Tensor, "channels colours factor factor"]:
    """The first `channels` functions of `dct_order`, float64, orthonormal."""
    opponent = torch.ones(1, 1).double()
    if colours == 3:
        opponent = torch.tensor([[1, 1, 1], [-1, -1, 2], [1, -1, 0]]).double()
        opponent = opponent / opponent.square().sum(1, keepdim=True).sqrt()
    frequency = torch.arange(factor).double()
    waves = torch.cos(math.pi / (2 * factor) * torch.outer(frequency, 2 * frequency + 1)) * math.sqrt(2 / factor)
    waves[0] = 1 / math.sqrt(factor)
    functions = dct_order(colours, factor)[:channels]
    return torch.stack([torch.einsum("c,y,x->cyx", opponent[m], waves[u], waves[v]) for m, u, v in functions])


def _level(function: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The key that `dct_order` sorts by; anti-diagonals alternate in direction as JPEG's: 00, 01, 10, 20, 11, 02."""
    m, u, v = function
    diagonal = u + v
    level = diagonal if m == 0 else 1 + 2 * diagonal
    return level, m, diagonal, u if diagonal % 2 else v
