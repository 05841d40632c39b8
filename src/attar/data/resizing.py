"""Crops of images, resized as products with two thin matrices: batched over boxes that differ, and reproducible."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.base.shapes import Float


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
