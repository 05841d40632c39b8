"""DSA one image and one pixel at a time, in float64: the oracle of attar.data.augmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def augment(image: Tensor, name: str, values: dict[str, float]) -> Tensor:
    """One operation on one image [c, h, w], with the values that were drawn for it."""
    image = image.double()
    channels, height, width = image.shape
    if name == "color":
        return _color(image, values)
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                result[channel, row, column] = _pixel(image[channel], name, values, row, column)
    return result


def _color(image: Tensor, values: dict[str, float]) -> Tensor:
    bright = image + values["brightness"]
    grey = sum(bright[channel] for channel in range(len(bright))) / len(bright)
    saturated = torch.stack([(plane - grey) * values["saturation"] + grey for plane in bright])
    mean = float(saturated.sum()) / saturated.numel()
    return (saturated - mean) * values["contrast"] + mean


def _pixel(plane: Tensor, name: str, values: dict[str, float], row: int, column: int) -> float:
    height, width = plane.shape
    if name == "flip":
        return float(plane[row, width - 1 - column] if values["flipped"] else plane[row, column])
    if name == "cutout":
        covered = values["top"] <= row < values["bottom"] and values["left"] <= column < values["right"]
        return 0.0 if covered else float(plane[row, column])
    if name == "crop":
        return _at(plane, row + int(values["shift_rows"]), column + int(values["shift_columns"]))
    # Pixel centres in coordinates from -1 to 1 over the whole side.
    x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
    if name == "scale":
        x, y = x * values["scale_x"], y * values["scale_y"]
    else:
        cosine, sine = math.cos(values["angle"]), math.sin(values["angle"])
        x, y = cosine * x - sine * y, sine * x + cosine * y
    return _bilinear(plane, ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2)


def _bilinear(plane: Tensor, row: float, column: float) -> float:
    top, left = math.floor(row), math.floor(column)
    down, across = row - top, column - left
    return (
        (1 - down) * (1 - across) * _at(plane, top, left)
        + (1 - down) * across * _at(plane, top, left + 1)
        + down * (1 - across) * _at(plane, top + 1, left)
        + down * across * _at(plane, top + 1, left + 1)
    )


def _at(plane: Tensor, row: int, column: int) -> float:
    height, width = plane.shape
    return float(plane[row, column]) if 0 <= row < height and 0 <= column < width else 0.0
