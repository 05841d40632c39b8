"""Crops and tiles of images, resized as products with two thin matrices: batched, differentiable, reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from attar.base.errors import InputError
from attar.base.shapes import Float, Int64

LARGEST_SIDE = 5


def resize_weights(
    starts: Float[Tensor, " boxes"], lengths: Float[Tensor, " boxes"], size: int, new_size: int
) -> Float[Tensor, "boxes new_size size"]:
    """Along one side, what each old pixel gives to each new one when [start, start + length] becomes `new_size` pixels.

        weight[i, j] ~ max(0, 1 - |j + 1/2 - centre_i| / max(1, s))
        s = length / new_size,   centre_i = start + (i + 1/2) s

    over the pixels j whose centres lie in the box, each row summing to 1: bilinear when enlarging, and when reducing
    with a support that grows with the reduction, so that nothing aliases.

    Args:
        starts: first edge of each box in pixels; may be fractions.
        lengths: of each box in pixels, at least 1.
        size: of the whole side.
        new_size: of the result.
    """
    steps = (lengths / new_size).unsqueeze(1)
    new = torch.arange(new_size, dtype=starts.dtype, device=starts.device) + 0.5
    centres = (starts.unsqueeze(1) + new * steps).unsqueeze(2)
    old = torch.arange(size, dtype=starts.dtype, device=starts.device) + 0.5
    weights = (1 - (old - centres).abs() / steps.clamp_min(1).unsqueeze(2)).clamp_min(0)
    inside = (old >= starts.unsqueeze(1)) & (old <= (starts + lengths).unsqueeze(1))
    weights = weights * inside.unsqueeze(1)
    return weights / weights.sum(2, keepdim=True)


def resize_by(
    images: Float[Tensor, "items C H W"], rows: Float[Tensor, "#items h H"], columns: Float[Tensor, "#items w W"]
) -> Float[Tensor, "items C h w"]:
    """rows @ image @ columns^T for every image and channel, differentiable; one matrix for all, or one for each.

    But for rounding this is torch's bilinear interpolation with antialias=True. On CUDA that one's gradient adds up in
    an order that changes from run to run, and it takes one box at a time.
    """
    count, channels, height, width = images.shape
    by_channel = rows.unsqueeze(1).expand(count, channels, -1, -1).flatten(0, 1)
    tall = by_channel @ images.reshape(count * channels, height, width)
    wide = tall.view(len(columns), -1, width) @ columns.transpose(1, 2) if count else tall.new_empty(0)
    return wide.view(count, channels, rows.shape[1], columns.shape[1])


def crop_and_resize(
    images: Float[Tensor, "items C H W"], boxes: Float[Tensor, "items 4"], size: tuple[int, int]
) -> Float[Tensor, "items C h w"]:
    """Each image's box, resized to `size`: bilinear, antialiased.

    Args:
        boxes: rows (top, left, height, width) as fractions of the image's sides, each box at least a pixel high and
            wide and inside the image.
        size: (h, w) of the results.
    """
    height, width = images.shape[2:]
    sides = torch.tensor([height, width, height, width], dtype=boxes.dtype, device=boxes.device)
    top, left, high, wide = (boxes * sides).to(images.device, images.dtype).unbind(1)
    rows = resize_weights(top, high, height, size[0])
    return resize_by(images, rows, resize_weights(left, wide, width, size[1]))


@dataclass(frozen=True)
class Grid:
    """`side` x `side` tiles in a canvas.

    Args:
        side: 1 to 5, so N = 1, 4, 9, 16 or 25 tiles.

    Raises:
        InputError: another side.
    """

    side: int

    def __post_init__(self) -> None:
        if not 1 <= self.side <= LARGEST_SIDE:
            raise InputError(f"a grid of side {self.side} was asked for; give 1 to {LARGEST_SIDE} (1 to 25 tiles)")

    @property
    def num_tiles(self) -> int:
        """N = side^2."""
        return self.side * self.side

    def edges(self, size: int) -> list[int]:
        """Where tiles begin and end along a side of `size` pixels: i size / `side`, halves rounded up.

        Raises:
            InputError: fewer pixels than tiles.
        """
        if size < self.side:
            raise InputError(
                f"{size} pixels cannot hold {self.side} tiles side by side; take a grid of at most {size}, or larger "
                "images"
            )
        return [(2 * place * size + self.side) // (2 * self.side) for place in range(self.side + 1)]

    def sizes(self, size: int) -> list[int]:
        """The tiles' sizes along a side of `size` pixels."""
        edges = self.edges(size)
        return [after - before for before, after in pairwise(edges)]


def tile_boxes(height: int, width: int, grid: Grid) -> Int64[Tensor, "tiles 4"]:
    """Each tile's (top, left, bottom, right) in its canvas, ends excluded, row by row.

    They cover every pixel once; heights differ by at most 1, and so do widths.

    Raises:
        InputError: a side with fewer pixels than tiles.

    Example:
        >>> tile_boxes(5, 4, Grid(2)).tolist()
        [[0, 0, 3, 2], [0, 2, 3, 4], [3, 0, 5, 2], [3, 2, 5, 4]]
    """
    rows, columns = grid.edges(height), grid.edges(width)
    return torch.tensor(
        [
            (rows[row], columns[column], rows[row + 1], columns[column + 1])
            for row in range(grid.side)
            for column in range(grid.side)
        ]
    )


def squeeze(images: Float[Tensor, "items C H W"], grid: Grid) -> Float[Tensor, "canvases C H W"]:
    """Canvases of N images each, in order: image t becomes tile t mod N of canvas t // N, reduced to the tile's size.

    Bilinear and antialiased. A grid of side 1 gives the images themselves.

    Raises:
        ValueError: a number of images that is no multiple of N.

    Source: LIC, definition 1 and footnote 5; Sun et al. 2024 (RDED), which joins patches in the same way.
    Deviation: antialiased, where RDED's code resizes to the nearest pixel. Where the side does not divide, tiles of
        either size take turns; in RDED's code the larger ones come first.
    """
    if len(images) % grid.num_tiles:
        raise ValueError(f"{len(images)} images do not fill canvases of {grid.num_tiles} tiles")
    if grid.side == 1:
        return images
    height, width = images.shape[2:]
    start = images.new_zeros(1)
    canvases = images.new_empty(len(images) // grid.num_tiles, *images.shape[1:])
    for place, (top, left, bottom, right) in enumerate(tile_boxes(height, width, grid).tolist()):
        members = images[place :: grid.num_tiles]
        rows = resize_weights(start, start + height, height, bottom - top)
        columns = resize_weights(start, start + width, width, right - left)
        canvases[:, :, top:bottom, left:right] = resize_by(members, rows, columns)
    return canvases


def expand(
    canvases: Float[Tensor, "canvases C H W"], tiles: Int64[Tensor, " batch"], grid: Grid
) -> Float[Tensor, "batch C H W"]:
    """Tiles enlarged to the size of a canvas: bilinear, from the tile's own pixels only. Differentiable.

    A grid of side 1 gives the canvases themselves.

    Args:
        canvases: M of them.
        tiles: indices into the M N tiles; tile t is at place t mod N (row by row) of canvas t // N.

    Source: LIC, definition 1, the expanding operation; the paper does not say which interpolation.
    """
    if grid.side == 1:
        return canvases[tiles]
    height, width = canvases.shape[2:]
    heights, widths = grid.sizes(height), grid.sizes(width)
    places = tiles % grid.num_tiles
    rows = _enlarging(canvases, heights, height, places // grid.side)
    columns = _enlarging(canvases, widths, width, places % grid.side)
    return resize_by(_cut(canvases, heights, widths)[tiles], rows, columns)


def _cut(canvases: Tensor, heights: list[int], widths: list[int]) -> Float[Tensor, "tiles C h w"]:
    """All tiles of all canvases, those that are a pixel short filled up with zeros."""
    bands = [_filled(band, 0, max(heights) - band.shape[2]) for band in canvases.split(heights, 2)]
    tiles = [_filled(tile, max(widths) - tile.shape[4], 0) for tile in torch.stack(bands, 1).split(widths, 4)]
    return torch.stack(tiles, 2).flatten(0, 2)


def _filled(images: Tensor, right: int, below: int) -> Tensor:
    return pad(images, (0, right, 0, below)) if right or below else images


def _enlarging(canvases: Tensor, sizes: list[int], size: int, which: Tensor) -> Float[Tensor, "batch size largest"]:
    """Weights that enlarge tiles along one side to `size` pixels, for tiles at the places `which` of that side.

    One matrix for all where tiles do not differ in size.
    """
    lengths = torch.tensor(sizes, dtype=canvases.dtype, device=canvases.device)
    weights = resize_weights(torch.zeros_like(lengths), lengths, max(sizes), size)
    return weights[which] if min(sizes) < max(sizes) else weights[:1]
