"""LIC's compensation (Algorithm 1, stage 2, descending) one canvas and one tile at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from tests.reference.observer import LiteralObserver
from torch import Tensor


def literal_enlarge(tile: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel centres at half integers, the border repeated: one output pixel after the other."""
    rows = []
    for row in range(height):
        top, down = _between(row, height, tile.shape[1])
        columns = []
        for column in range(width):
            left, across = _between(column, width, tile.shape[2])
            below, right = min(top + 1, tile.shape[1] - 1), min(left + 1, tile.shape[2] - 1)
            upper = (1 - across) * tile[:, top, left] + across * tile[:, top, right]
            lower = (1 - across) * tile[:, below, left] + across * tile[:, below, right]
            columns.append((1 - down) * upper + down * lower)
        rows.append(torch.stack(columns, -1))
    return torch.stack(rows, -2)


def literal_expand(canvas: Tensor, grid: int) -> list[Tensor]:
    """All tiles of one canvas [C, H, W], row by row, enlarged to its size."""
    _, height, width = canvas.shape
    down, across = ([math.floor(i * size / grid + 0.5) for i in range(grid + 1)] for size in (height, width))
    return [
        literal_enlarge(canvas[:, down[i] : down[i + 1], across[j] : across[j + 1]], height, width)
        for i in range(grid)
        for j in range(grid)
    ]


def literal_transform(inputs: Tensor, operations: Sequence[str], values: dict[str, Tensor]) -> Tensor:
    """g of one network input: crop, cutout and flip of DSA, in this order of `operations`."""
    _, height, width = inputs.shape
    for name in operations:
        if name == "flip":
            inputs = inputs.flip(2) if bool(values["flipped"]) else inputs
        elif name == "cutout":
            kept = torch.ones(height, width, dtype=inputs.dtype)
            top, bottom, left, right = (max(0, int(values[side])) for side in ("top", "bottom", "left", "right"))
            kept[top:bottom, left:right] = 0
            inputs = inputs * kept
        else:
            assert name == "crop"
            wide = torch.nn.functional.pad(inputs, (width, width, height, height))
            top, left = height + int(values["shift_rows"]), width + int(values["shift_columns"])
            inputs = wide[:, top : top + height, left : left + width]
    return inputs


def literal_loss(
    observer: LiteralObserver,
    expanded: Sequence[Tensor],
    originals: Sequence[Tensor],
    transform: Callable[[Tensor], Tensor],
    layer: int | str,
    distance: str,
) -> Tensor:
    """Eq. 8, a sum over tiles and a mean over features; images in [0, 1]."""
    loss = torch.zeros((), dtype=torch.float64)
    for tile, original in zip(expanded, originals, strict=True):
        found = []
        for image in (original, tile):
            _, maps, logits = observer.passed(transform(observer.normalised(image)))
            found.append(logits if layer == "logits" else maps[int(layer)].flatten())
        gap = found[1] - found[0].detach()
        loss = loss + ((gap**2).sum() if distance == "squared" else gap.abs().sum()) / len(gap)
    return loss


def compensate(
    loss_of: Callable[[Tensor, int], Tensor], squeezed: Tensor, rate: float, num_steps: int
) -> tuple[list[float], Tensor]:
    """Stage 2 for one canvas: delta <- delta - rate d loss / d delta. The losses, and squeezed + delta."""
    delta, losses = torch.zeros_like(squeezed), []
    for step in range(num_steps):
        delta = delta.detach().requires_grad_()
        loss = loss_of(squeezed + delta, step)
        loss.backward()
        assert delta.grad is not None
        losses.append(float(loss.detach()))
        delta = delta - rate * delta.grad
    return losses, (squeezed + delta).detach()


def _between(place: int, size: int, source_size: int) -> tuple[int, float]:
    """The source pixel before output pixel `place`, and how far beyond it."""
    exact = min(max((place + 0.5) * source_size / size - 0.5, 0.0), source_size - 1.0)
    return math.floor(exact), exact - math.floor(exact)
