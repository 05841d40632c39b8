"""Regions one canvas and one pixel at a time, in Python's own numbers: the oracle of attar.methods.labels.regions."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

MASK = 2**64 - 1


def number(seed: int, epoch: int, call: int, canvas: int) -> float:
    """Uniform in [0, 1): SplitMix64 at place 2^32 call + canvas."""
    text = "\x1f".join([str(seed), "regions", str(epoch)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    mixed = (key + 0x9E3779B97F4A7C15 * (2**32 * call + canvas + 1)) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    mixed ^= mixed >> 31
    return (mixed >> 11) * 2.0**-53


def box(
    seed: int, epoch: int, canvas: int, size: tuple[int, int], grid: int, scale: tuple[float, float], tiles: float
) -> tuple[float, float, float, float]:
    """(top, left, height, width) in pixels."""
    u = [number(seed, epoch, call, canvas) for call in range(6)]
    top, left, height, width = 0.0, 0.0, float(size[0]), float(size[1])
    if u[0] < tiles:
        row, column = divmod(int(u[1] * grid * grid), grid)
        edges = [[(2 * place * side + grid) // (2 * grid) for place in range(grid + 1)] for side in size]
        top, left = float(edges[0][row]), float(edges[1][column])
        height, width = edges[0][row + 1] - top, edges[1][column + 1] - left
    area = scale[0] + (scale[1] - scale[0]) * u[2]
    low = min(max(3 / 4 * height / width, area), 1 / area)
    high = min(max(4 / 3 * height / width, area), 1 / area)
    ratio = low * (high / low) ** u[3]
    rows = min(max(math.sqrt(area / ratio) * height, 1.5), height)
    columns = min(max(math.sqrt(area * ratio) * width, 1.5), width)
    return top + (height - rows) * u[4], left + (width - columns) * u[5], rows, columns


def crop(canvas: Tensor, where: tuple[float, float, float, float], mirrored: bool) -> Tensor:
    """The box of a canvas [C, H, W], enlarged to its size: bilinear between pixels whose centres lie in the box."""
    channels, height, width = canvas.shape
    result = torch.zeros_like(canvas)
    for i in range(height):
        for j in range(width):
            y = where[0] + (i + 0.5) * where[2] / height
            x = where[1] + (j + 0.5) * where[3] / width
            total, weight = torch.zeros(channels, dtype=canvas.dtype), 0.0
            for r in range(height):
                for c in range(width):
                    rows_in = where[0] - 1e-9 <= r + 0.5 <= where[0] + where[2] + 1e-9
                    columns_in = where[1] - 1e-9 <= c + 0.5 <= where[1] + where[3] + 1e-9
                    near = max(0.0, 1 - abs(r + 0.5 - y)) * max(0.0, 1 - abs(c + 0.5 - x))
                    if rows_in and columns_in and near:
                        total, weight = total + near * canvas[:, r, c], weight + near
            result[:, i, width - 1 - j if mirrored else j] = total / weight
    return result


def regions(
    canvases: Tensor,
    seed: int,
    epoch: int,
    grid: int,
    scale: tuple[float, float],
    tiles: float,
    flip: float,
    mixed: bool,
) -> Tensor:
    """Every canvas's region, float64 [M, C, H, W]."""
    count, _, height, width = canvases.shape
    views = [
        crop(
            canvases[place].double(),
            box(seed, epoch, place, (height, width), grid, scale, tiles),
            number(seed, epoch, 6, place) < flip,
        )
        for place in range(count)
    ]
    if not mixed:
        return torch.stack(views)
    result = [view.clone() for view in views]
    for place in range(count):
        partner = (place + 1 + int(number(seed, epoch, 7, place) * (count - 1))) % count
        share, row, column = (number(seed, epoch, call, place) for call in (8, 9, 10))
        for axis, (middle, side) in enumerate(((row, height), (column, width))):
            cut, centre = int(math.sqrt(1 - share) * side), int(middle * side)
            bounds = (max(centre - cut // 2, 0), min(centre + cut // 2, side))
            if axis == 0:
                rows = bounds
        result[place][:, rows[0] : rows[1], bounds[0] : bounds[1]] = views[partner][
            :, rows[0] : rows[1], bounds[0] : bounds[1]
        ]
    return torch.stack(result)
