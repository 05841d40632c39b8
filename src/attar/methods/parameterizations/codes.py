"""Codes: one learnable code per item, in the space of a codec."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.methods.parameterizations.parameterization import Parameterization
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import Pixels

Storage = Literal["float32", "float16", "int8"]
LabelStorage = Literal["float16", "float32"]


class CodesConfig(Config):
    """One code per item, stored as float32, float16 or int8 (one scale per channel)."""

    kind: Literal["codes"] = "codes"
    storage: Storage = "int8"


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
        soft_labels: float [M, K], the logits that soft labels start from; None for hard labels.
        label_storage: how `payload` stores the logits.

    Source: LatentDD section 3.2, L_S = {(l_i, y_i)}; Guo et al. 2024 (DATM) for logits that are trained with the items.
    """

    kind = "codes"

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "stored c h w"],
        labels: Int64[Tensor, " items"],
        storage: Storage = "float32",
        soft_labels: Float[Tensor, "items classes"] | None = None,
        label_storage: LabelStorage = "float16",
    ) -> None:
        super().__init__()
        self.codec = codec
        self.codes = nn.Parameter(codes.detach().clone().float())
        self.register_buffer("labels", labels.clone())
        self.storage = storage
        if soft_labels is not None:
            self.soft_labels = nn.Parameter(soft_labels.detach().clone().float())
        self.label_storage = label_storage

    def forward(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch c h w"]:
        return self.codes[items]

    @torch.no_grad()
    def images(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        return self.codec.decode(self.codes[items])

    def latents(self, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        return self.codes[items].detach()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch C H W"]:
        return self.codec.decode(latents)

    @torch.no_grad()
    def cut_to_valid_range(self) -> None:
        """Every code becomes the nearest one that decodes to [0, 1].

            code <- min(max(code, encode(0)), encode(1)),   channel by channel

        Raises:
            InputError: as of `valid_range`.
        """
        low, high = self.valid_range()
        self.codes.copy_(torch.minimum(torch.maximum(self.codes, low), high))

    def payload(self) -> dict[str, Tensor]:
        tensors = store_codes(self.codes.detach().cpu(), self.storage)
        tensors["labels"] = self.labels.cpu().to(torch.int32)
        if self.soft_labels is not None:
            logits = self.soft_labels.detach().cpu()
            tensors["soft_labels"] = to_float16(logits) if self.label_storage == "float16" else logits.float()
        return tensors

    def spec(self) -> dict[str, Any]:
        spec = {"kind": self.kind, "storage": self.storage}
        return spec if self.soft_labels is None else spec | {"label_storage": self.label_storage}

    def valid_range(self) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c h w"]]:
        """Codes of a black and of a white image: between them lies what decodes to [0, 1].

        Raises:
            InputError: a codec that mixes pixels, whose valid codes are no range of each value.
        """
        codec = self.codec
        if not isinstance(codec, Pixels) or not codec.cheap:
            raise InputError(
                "valid_range cuts each value by itself, and a code of this codec has no such range, because it mixes "
                "pixels; set optimizer.valid_range=false, or take codec pixels without whitening"
            )
        black = torch.zeros(1, *codec.image_shape, dtype=self.codes.dtype, device=self.codes.device)
        return codec.encode(black), codec.encode(black + 1)

    @classmethod
    def restore(cls, codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any]) -> Codes:
        """Rebuild from what `payload` and `spec` gave; quantised codes come back as the values they stand for."""
        soft_labels, label_storage = payload.get("soft_labels"), spec.get("label_storage", "float16")
        return cls(codec, read_codes(payload), payload["labels"].long(), spec["storage"], soft_labels, label_storage)


def store_codes(codes: Float[Tensor, "items c h w"], storage: Storage) -> dict[str, Tensor]:
    """Codes as stored tensors: {"codes"} or, for int8, {"codes", "scale"}.

        stored = round(code / scale_channel),   scale_channel = max |code| / 127

    The rounding error is at most scale / 2 per value.
    """
    if storage == "float32":
        return {"codes": codes.float()}
    if storage == "float16":
        return {"codes": to_float16(codes)}
    scale = codes.abs().amax(dim=(0, 2, 3)).clamp_min(1e-12) / 127
    return {"codes": (codes / scale[:, None, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def to_float16(values: Tensor) -> Tensor:
    """float16, with values beyond its range cut to the largest instead of made infinite."""
    largest = torch.finfo(torch.float16).max
    return values.clamp(-largest, largest).half()


def read_codes(payload: dict[str, Tensor]) -> Float[Tensor, "items c h w"]:
    """The float32 codes that `store_codes` stored."""
    codes = payload["codes"].float()
    return codes * payload["scale"][:, None, None] if "scale" in payload else codes
