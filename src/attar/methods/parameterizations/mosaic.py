"""Mosaic: canvases of several images each, in the space of a codec; its items are the tiles."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import CodeBatch, Float, Images, Indices, Labels
from attar.data.resizing import LARGEST_SIDE, Grid, expand, tile_boxes
from attar.methods.initialization.sources import Sources, encoded
from attar.methods.parameterizations.codes import Codes, CodesConfig, CodesSpec, Storage, codes_table, read_codes
from attar.methods.parameterizations.parameterization import (
    Draw,
    LabelStorage,
    Material,
    Parameterization,
    Table,
    given_preprocess,
)
from attar.models.codecs.codec import Codec


class MosaicConfig(CodesConfig):
    """Canvases of grid x grid tiles, one code each.

    Args:
        grid: tiles along each side of a canvas, 1 to 5.
    """

    matching: ClassVar[Literal["codes", "inputs"]] = "inputs"

    kind: Literal["mosaic"] = "mosaic"  # type: ignore[assignment]
    grid: int = Field(default=2, ge=1, le=LARGEST_SIDE)

    @property
    def num_tiles(self) -> int:
        return Grid(self.grid).num_tiles

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        return super().spec(codec, num_classes) | {"grid": self.grid}

    def initial(self, material: Material) -> Mosaic:
        spaces = material.spaces
        codes, labels = material.codes(self.grid), material.labels(self.num_tiles)
        return Mosaic(spaces.codec, codes, labels, self.storage, preprocess=spaces.preprocess, grid=self.grid)


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
    spec_type = MosaicSpec

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "stored c h w"],
        labels: Labels,
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

    def forward(self, items: Indices, generator: Draw = None) -> Images:
        return self.preprocess.encode(self._expanded(items))

    @torch.no_grad()
    def images(self, items: Indices, generator: Draw = None) -> Images:
        return self._expanded(items)

    @torch.no_grad()
    def canvases(self, indices: Indices, generator: Draw = None) -> Images:
        return self.codec.decode(self.codes[indices])

    def latents(self, items: Indices) -> CodeBatch:
        """The codes of the canvases that the tiles lie in; `decode` gives whole canvases."""
        return self.codes[items // self.grid.num_tiles].detach()

    def remade(self, sources: Sources, preprocess: Codec) -> Parameterization:
        codes, side = encoded(self.codec, sources, self.grid), self.grid.side
        again = Mosaic(self.codec, codes, sources.labels, self.storage, preprocess=preprocess, grid=side)
        return Mosaic.restore(self.codec, again.payload(), again.spec(), preprocess)

    def item_spec(self) -> dict[str, Any]:
        return super().item_spec() | {"grid": self.grid.side}

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        num_tiles = Grid(spec.grid).num_tiles
        if num_items % num_tiles:
            raise InputError(f"{num_items} items do not fill canvases of {num_tiles} tiles; the file is damaged")
        return codes_table(spec.storage, num_items // num_tiles, code_shape)

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> Mosaic:
        codes, labels = read_codes(payload), payload["labels"].long()
        inputs = given_preprocess(preprocess, cls.kind)
        return Mosaic(codec, codes, labels, spec.storage, preprocess=inputs, grid=spec.grid)

    def _expanded(self, items: Tensor) -> Tensor:
        """Each canvas that is needed is decoded once, however many of its tiles are asked for."""
        num_tiles = self.grid.num_tiles
        needed, which = (items // num_tiles).unique(return_inverse=True)
        return expand(self.codec.decode(self.codes[needed]), which * num_tiles + items % num_tiles, self.grid)
