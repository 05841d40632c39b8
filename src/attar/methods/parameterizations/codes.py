"""Codes: one learnable code per item, in the space of a codec."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import CodeBatch, Float, Indices, Labels
from attar.data.resizing import Grid
from attar.methods.initialization.sources import Sources, encoded
from attar.methods.parameterizations.parameterization import (
    DTYPE_OF,
    Draw,
    LabelStorage,
    Material,
    Parameterization,
    ParameterizationConfig,
    Table,
    stored_values,
)
from attar.models.codecs.codec import Codec

Storage = Literal["float32", "float16", "int8"]


class CodesConfig(ParameterizationConfig):
    """One code per item, stored as float32, float16 or int8 (one scale per channel)."""

    kind: Literal["codes"] = "codes"
    storage: Storage = "int8"

    def initial(self, material: Material) -> Codes:
        return Codes(material.spaces.codec, material.codes(), material.labels(), self.storage)


class CodesSpec(CodesConfig):
    """What a file says of its codes; `label_storage` is there with soft labels only."""

    label_storage: LabelStorage | None = None


class Codes(Parameterization):
    """M codes in the space of a codec: pixels for DM and its kin, latents for LatentDD.

    Args:
        codec: its `code_shape` is the shape of one item.
        codes: float32 [M, c, h, w], the starting point.
        labels: int64 [M], class-major.
        storage: how `payload` stores the codes.
        soft_labels, label_storage: as of `Parameterization`.

    Source: LatentDD section 3.2, L_S = {(l_i, y_i)}; Guo et al. 2024 (DATM) for logits that are trained with the items.
    """

    kind = "codes"
    spec_type: ClassVar[type[CodesSpec]] = CodesSpec

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "stored c h w"],
        labels: Labels,
        storage: Storage = "float32",
        soft_labels: Float[Tensor, "items classes"] | None = None,
        label_storage: LabelStorage = "float16",
    ) -> None:
        super().__init__(labels, soft_labels, label_storage)
        self.codec = codec
        self.codes = nn.Parameter(codes.detach().clone().float())
        self.storage: Storage = storage

    def forward(self, items: Indices, generator: Draw = None) -> CodeBatch:
        return self.codes[items]

    @torch.no_grad()
    def cut_to_valid_range(self) -> None:
        """Every code becomes the nearest one that decodes to [0, 1].

            code <- min(max(code, encode(0)), encode(1)),   channel by channel

        Raises:
            InputError: as of `valid_range`.
        """
        low, high = self.valid_range()
        self.codes.copy_(torch.minimum(torch.maximum(self.codes, low), high))

    def valid_range(self) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c h w"]]:
        """Codes of a black and of a white image: between them lies what decodes to [0, 1].

        Raises:
            InputError: a codec that mixes pixels, whose valid codes are no range of each value.
        """
        codec = self.codec
        if not codec.pixelwise:
            raise InputError(
                "valid_range cuts each value by itself, and a code of this codec has no such range, because it mixes "
                "pixels; set optimizer.valid_range=false, or take codec pixels without whitening"
            )
        black = torch.zeros(1, *codec.image_shape, dtype=self.codes.dtype, device=self.codes.device)
        return codec.encode(black), codec.encode(black + 1)

    def remade(self, sources: Sources, preprocess: Codec) -> Parameterization:
        again = Codes(self.codec, encoded(self.codec, sources, Grid(1)), sources.labels, self.storage)
        return Codes.restore(self.codec, again.payload(), again.spec())

    def item_payload(self) -> dict[str, Tensor]:
        return store_codes(self.codes.detach().cpu(), self.storage)

    def item_spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "storage": self.storage}

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        return codes_table(spec.storage, num_items, code_shape)

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> Codes:
        return Codes(codec, read_codes(payload), payload["labels"].long(), spec.storage)


def codes_table(storage: Storage, num_codes: int, code_shape: tuple[int, int, int]) -> Table:
    """Dtypes and shapes of what `store_codes` gives."""
    table: Table = {"codes": (DTYPE_OF[storage], (num_codes, *code_shape))}
    return table | {"scale": ("F32", (code_shape[0],))} if storage == "int8" else table


def store_codes(codes: Float[Tensor, "items c h w"], storage: Storage) -> dict[str, Tensor]:
    """Codes as stored tensors: {"codes"} or, for int8, {"codes", "scale"}.

        stored = round(code / scale_channel),   scale_channel = max |code| / 127

    The rounding error is at most scale / 2 per value.
    """
    if storage != "int8":
        return {"codes": stored_values(codes, storage)}
    scale = codes.abs().amax(dim=(0, 2, 3)).clamp_min(1e-12) / 127
    return {"codes": (codes / scale[:, None, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def read_codes(payload: dict[str, Tensor]) -> Float[Tensor, "items c h w"]:
    """The float32 codes that `store_codes` stored."""
    codes = payload["codes"].float()
    return codes * payload["scale"][:, None, None] if "scale" in payload else codes
