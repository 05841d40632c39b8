"""Codes: one learnable code per item, in the space of a codec."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from attar.codecs.codec import Codec
from attar.config import Config
from attar.parameterizations.parameterization import Parameterization
from attar.shapes import Float, Int64

Storage = Literal["float32", "float16", "int8"]


class CodesConfig(Config):
    """One code per item, stored as float32, float16 or int8 (one scale per channel)."""

    kind: Literal["codes"] = "codes"
    storage: Storage = "int8"


class Codes(Parameterization):
    """M codes in the space of a codec: pixels for DM and its kin, latents for LatentDD.

    Args:
        codec: its `code_shape` is the shape of one item.
        codes: float32 [M, c, h, w], the starting point.
        labels: int64 [M], class-major.
        storage: how `payload` stores the codes.

    Source: LatentDD section 3.2, L_S = {(l_i, y_i)}.
    """

    kind = "codes"

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "items c h w"],
        labels: Int64[Tensor, " items"],
        storage: Storage = "float32",
    ) -> None:
        super().__init__()
        self.codec = codec
        self.codes = nn.Parameter(codes.detach().clone().float())
        self.register_buffer("labels", labels.clone())
        self.storage = storage

    def forward(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch c h w"]:
        return self.codes[items]

    @torch.no_grad()
    def images(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        return self.codec.decode(self.codes[items])

    def payload(self) -> dict[str, Tensor]:
        tensors = store_codes(self.codes.detach().cpu(), self.storage)
        tensors["labels"] = self.labels.cpu().to(torch.int32)
        return tensors

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "storage": self.storage}

    @classmethod
    def restore(cls, codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any]) -> Codes:
        """Rebuild from what `payload` and `spec` gave; quantised codes come back as the values they stand for."""
        return cls(codec, read_codes(payload), payload["labels"].long(), spec["storage"])


def store_codes(codes: Float[Tensor, "items c h w"], storage: Storage) -> dict[str, Tensor]:
    """Codes as stored tensors: {"codes"} or, for int8, {"codes", "scale"}.

        stored = round(code / scale_channel),   scale_channel = max |code| / 127

    The rounding error is at most scale / 2 per value.
    """
    if storage == "float32":
        return {"codes": codes.float()}
    if storage == "float16":
        largest = torch.finfo(torch.float16).max
        return {"codes": codes.clamp(-largest, largest).half()}
    scale = codes.abs().amax(dim=(0, 2, 3)).clamp_min(1e-12) / 127
    return {"codes": (codes / scale[:, None, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def read_codes(payload: dict[str, Tensor]) -> Float[Tensor, "items c h w"]:
    """The float32 codes that `store_codes` stored."""
    codes = payload["codes"].float()
    return codes * payload["scale"][:, None, None] if "scale" in payload else codes
