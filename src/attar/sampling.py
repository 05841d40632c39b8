"""Network inputs of items that are distributions, drawn for one epoch after another, and sooner than image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from attar.codecs.codec import Codec
from attar.parameterizations.decoders import swift_decoder
from attar.parameterizations.parameterization import Parameterization
from attar.parameterizations.priors import Priors
from attar.shapes import Float, Int64

# Input values made at once: 8 MiB of float32, because a deep decoder needs a hundred times its output.
CHUNK_VALUES = 2**21
LARGEST_CHUNK = 512

Precision = Literal["float32", "bfloat16"]


class Sampler:
    """A sample of every item as network inputs, equal to `preprocess.encode(part.images(items))` up to rounding.

    Priors are decoded by a copy of their decoder without norms, once a pass over the items, however many batches it
    gives. Where network inputs are the decoder's own space, the way to images and back, two products with a matrix of
    all pixels for ZCA, is left out.

    Args:
        parts: the shards on `device`, in the order of their items; nothing of them may change afterwards.
        preprocess: images to network inputs, on `device`.
        device: where inputs are made.
        precision: "bfloat16" is autocast of the decoder: convolutions and matrix products alone; results are float32.
    """

    def __init__(
        self,
        parts: Sequence[Parameterization],
        preprocess: Codec,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        self._parts = [
            part.with_decoder(swift_decoder(part.decoder)) if isinstance(part, Priors) else part for part in parts
        ]
        self._preprocess, self._device, self.precision = preprocess, device, precision

    def at(self, precision: Precision) -> Sampler:
        """The same in another precision."""
        other = Sampler([], self._preprocess, self._device, precision)
        other._parts = self._parts
        return other

    @torch.no_grad()
    def __call__(self, draw: torch.Generator | None) -> Float[Tensor, "items c h w"]:
        """A sample of every item, in the items' order; without a generator the items' means.

        Args:
            draw: on the CPU; gives the same samples as `DistilledSet.images` of all items.
        """
        c, h, w = self._preprocess.code_shape
        inputs = torch.empty(sum(map(len, self._parts)), c, h, w, device=self._device)
        size, first = min(LARGEST_CHUNK, max(1, CHUNK_VALUES // (c * h * w))), 0
        for part in self._parts:
            for items in torch.arange(len(part), device=part.labels.device).split(size):
                inputs[first : first + len(items)] = self._made(part, items, draw)
                first += len(items)
        return inputs

    def _made(self, part: Parameterization, items: Int64[Tensor, " batch"], draw: torch.Generator | None) -> Tensor:
        if not isinstance(part, Priors):
            return self._preprocess.encode(part.images(items, draw).to(self._device, torch.float32))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            codes = part.means(items) if draw is None else part.samples(items, draw)
        if part.codec is self._preprocess:
            return codes.float()
        return self._preprocess.encode(part.codec.decode(codes.float()))
