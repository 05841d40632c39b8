"""What items have in common whose images a frozen model makes, chunk by chunk."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float, Images, Indices
from attar.methods.parameterizations.parameterization import Draw, Parameterization, ParameterizationConfig
from attar.models.codecs.codec import Codec

RenderingPrecision: TypeAlias = Literal["float32", "bfloat16"]
"""bfloat16 is autocast: convolutions and matrix products alone."""

VALUE_BYTES = 4


class RenderedConfig(ParameterizationConfig):
    """Settings that items of any frozen model have.

    Args:
        chunk_items: the most items that go through the model at once.
        precision: of the model while items are learned; the images of the file are rendered in float32.
    """

    matching: ClassVar[Literal["codes", "inputs"]] = "inputs"
    has_range: ClassVar[bool] = False

    chunk_items: int = Field(default=16, ge=1)
    precision: RenderingPrecision = "float32"

    def codes_of_images(self, codec: Codec) -> int:
        return 1


class Rendered(Parameterization):
    """Items that objectives see as network inputs of their images.

        forward(i) = preprocess(images(i))

    Attributes:
        preprocess: images to network inputs.
        chunk_items: the most items that go through the model at once.
        precision: of the model in `forward`; `images` is always rendered in the precision of the items.
    """

    chunk_items: int
    precision: RenderingPrecision
    preprocess: Codec

    def forward(self, items: Indices, generator: Draw = None) -> Images:
        lowered = self.precision == "bfloat16"
        with torch.autocast(items.device.type, torch.bfloat16, enabled=lowered):
            images = self.rendered(items)
        return self.preprocess.encode(images.float() if lowered else images)

    @torch.no_grad()
    def images(self, items: Indices, generator: Draw = None) -> Images:
        return self.rendered(items)

    def latents(self, items: Indices) -> Float[Tensor, "batch ..."]:
        """Refused: what a model renders is a code and its condition."""
        raise InputError(f"items of kind {self.kind!r} have no code of their own; take a set of priors, or of codes")

    def decode(self, latents: Float[Tensor, "batch ..."]) -> Images:
        return self.latents(latents)

    def rendered(self, items: Indices) -> Images:
        """Images in chunks, each a graph of its own, so that the backward pass goes through one after the other."""
        return torch.cat([self._chunk(chunk) for chunk in items.split(self.chunk_items)])

    @abstractmethod
    def _chunk(self, items: Tensor) -> Tensor:
        """Images of at most `chunk_items` items."""

    def weight_bytes(self) -> int:
        """Bytes of the frozen model."""
        return sum(value.numel() * value.element_size() for value in self.codec.parameters())
