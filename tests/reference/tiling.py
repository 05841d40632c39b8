"""Squeezing and enlarging one pixel at a time, in float64: the oracle of attar.data.resizing."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def literal_boxes(height: int, width: int, side: int) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of each tile, row by row; edges at i size / side, halves rounded up."""
    boxes = []
    for row in range(side):
        for column in range(side):
            top, bottom = (math.floor(edge * height / side + 0.5) for edge in (row, row + 1))
            left, right = (math.floor(edge * width / side + 0.5) for edge in (column, column + 1))
            boxes.append((top, left, bottom, right))
    return boxes


def literal_resize(image: Tensor, height: int, width: int) -> Tensor:
    """One image [C, h, w], bilinear; reduced with a triangle as wide as the reduction."""
    result = torch.zeros(image.shape[0], height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for i, down in _weights(row, image.shape[1], height):
                for j, across in _weights(column, image.shape[2], width):
                    result[:, row, column] += down * across * image[:, i, j].double()
    return result


def _weights(new: int, size: int, new_size: int) -> list[tuple[int, float]]:
    """Old pixels that a new one is made of, and their shares."""
    step = size / new_size
    reach = max(1.0, step)
    found = []
    for old in range(size):
        distance = abs((old + 0.5) - (new + 0.5) * step) / reach
        if distance < 1:
            found.append((old, 1 - distance))
    total = sum(weight for _, weight in found)
    return [(old, weight / total) for old, weight in found]


def literal_squeeze(images: Tensor, side: int) -> Tensor:
    """Canvases [M, C, H, W] of M side^2 images, in order."""
    number, _, height, width = images.shape
    tiles = side * side
    canvases = torch.full((number // tiles, *images.shape[1:]), torch.nan, dtype=torch.float64)
    for index in range(number):
        top, left, bottom, right = literal_boxes(height, width, side)[index % tiles]
        canvases[index // tiles, :, top:bottom, left:right] = literal_resize(images[index], bottom - top, right - left)
    return canvases


def literal_expand(canvas: Tensor, place: int, side: int) -> Tensor:
    """One tile of one canvas at full size."""
    height, width = canvas.shape[1:]
    top, left, bottom, right = literal_boxes(height, width, side)[place]
    return literal_resize(canvas[:, top:bottom, left:right], height, width)
