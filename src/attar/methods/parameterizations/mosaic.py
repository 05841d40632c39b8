"""Mosaic: canvases of several images each, in the space of a codec; its items are the tiles."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.shapes import Float, Int64
from attar.data.tiling import LARGEST_SIDE, Grid, expand, tile_boxes
from attar.methods.parameterizations.codes import Codes, CodesConfig, CodesSpec, LabelStorage, Storage, read_codes
from attar.models.codecs.codec import Codec


class MosaicConfig(CodesConfig):
    """Canvases of grid x grid tiles, one code each.

    Args:
        grid: tiles along each side of a canvas, 1 to 5.
    """

    kind: Literal["mosaic"] = "mosaic"  # type: ignore[assignment]
    grid: int = Field(default=2, ge=1, le=LARGEST_SIDE)


class MosaicSpec(MosaicConfig, CodesSpec):
    """What a file says of its canvases."""


class Mosaic(Codes):
    """M canvases in the space of a codec, whose M N tiles are the items.

        forward(t) = preprocess(expand(decode(canvas of t), t))

    An item is seen in the space of network inputs, whatever the codec: only there do tiles become full images.

    Args:
        codec: of the canvases; its `code_shape` is the shape of one.
        codes: float32 [M, c, h, w], the starting point.
        labels: int64 [M N], class-major, N for each canvas in the order of its tiles (row by row).
        storage, soft_labels, label_storage: as of `Codes`; soft labels are [M N, K].
        preprocess: images to network inputs.
        grid: tiles along each side of a canvas.

    Raises:
        InputError: images with fewer pixels along a side than there are tiles.

    Source: Kim et al. 2022 (IDC), multi-formation; Sun et al. 2024 (RDED); LIC definition 1 and equation 5.
    """

    kind = "mosaic"

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "stored c h w"],
        labels: Int64[Tensor, " items"],
        storage: Storage = "float32",
        soft_labels: Float[Tensor, "items classes"] | None = None,
        label_storage: LabelStorage = "float16",
        *,
        preprocess: Codec,
        grid: int = 2,
    ) -> None:
        super().__init__(codec, codes, labels, storage, soft_labels, label_storage)
        self.preprocess = preprocess
        self.grid = Grid(grid)
        tile_boxes(*codec.image_shape[1:], self.grid)
        if len(labels) != len(codes) * self.grid.num_tiles:
            raise ValueError(f"{len(codes)} canvases of {self.grid.num_tiles} tiles have {len(labels)} labels")

    @property
    def num_canvases(self) -> int:
        return len(self.codes)

    def forward(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        return self.preprocess.encode(self._expanded(items))

    @torch.no_grad()
    def images(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        return self._expanded(items)

    @torch.no_grad()
    def canvases(
        self, indices: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        return self.codec.decode(self.codes[indices])

    def latents(self, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        """The codes of the canvases that the tiles lie in; `decode` gives whole canvases."""
        return self.codes[items // self.grid.num_tiles].detach()

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"grid": self.grid.side}

    @classmethod
    def restore(
        cls, codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any], preprocess: Codec | None = None
    ) -> Mosaic:
        """Rebuild from what `payload` and `spec` gave.

        Raises:
            ValueError: no `preprocess`.
            InputError: images that are too small for the grid.
        """
        if preprocess is None:
            raise ValueError("a mosaic is restored with the codec that makes network inputs; give preprocess")
        return cls(
            codec,
            read_codes(payload),
            payload["labels"].long(),
            spec["storage"],
            payload.get("soft_labels"),
            spec.get("label_storage", "float16"),
            preprocess=preprocess,
            grid=spec["grid"],
        )

    def _expanded(self, items: Tensor) -> Tensor:
        """Each canvas that is needed is decoded once, however many of its tiles are asked for."""
        num_tiles = self.grid.num_tiles
        needed, which = (items // num_tiles).unique(return_inverse=True)
        return expand(self.codec.decode(self.codes[needed]), which * num_tiles + items % num_tiles, self.grid)
