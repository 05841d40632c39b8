"""What a foreign file held, before any question is asked about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.models.codecs.pixels import Pixels

MOST_BYTES = 8 * 2**30
MOST_VALUES = 2**31
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class ForeignSet:
    """Images and labels as a file gave them.

    Args:
        images: float32 as they are, or uint8, [N, C, H, W].
        format: of the file, in words.
        labels: int64 [N], or None.
        soft: a number for every class, float32 [N, K] as they are, or None.
        classes: names in the order of the labels, where the file has any.
        rate: learned learning rate, where the file has one, as it is there; NaN where it is no single number.
        preprocess: images to network inputs, where the file has it.
        notes: what was read how, a line each.
        plain: whether the file's name says that the values are pictures, wherever they lie.
    """

    images: Tensor
    format: str
    labels: Int64[Tensor, " items"] | None = None
    soft: Float[Tensor, "items classes"] | None = None
    classes: tuple[str, ...] | None = None
    rate: float | None = None
    preprocess: Pixels | None = None
    notes: tuple[str, ...] = field(default=())
    plain: bool = False


def images_of(value: Any, what: str) -> tuple[Tensor, tuple[str, ...]]:
    """A tensor as images, float32 or uint8 [N, C, H, W], and a note where its channels were last.

    Raises:
        InputError: another layout or dtype, values that are not finite, more than a machine should be asked to hold.
    """
    tensor = _honest(value, what)
    if tensor.ndim != 4 or (tensor.shape[1] not in (1, 3) and tensor.shape[3] not in (1, 3)):
        raise InputError(
            f"{what} have shape {_shape(tensor)}; images are [N, C, H, W] or [N, H, W, C] with 1 or 3 channels: render "
            "latents and priors with their own code, and save them as images"
        )
    if min(tensor.shape) < 1 or max(tensor.shape[1:]) > LARGEST_SIDE:
        raise InputError(f"{what} have shape {_shape(tensor)}; sides of 1 to {LARGEST_SIDE} pixels are allowed")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InputError(f"{what} holds {tensor.dtype}; images are floats or uint8")
    notes: tuple[str, ...] = ()
    if tensor.shape[1] not in (1, 3):
        tensor, notes = tensor.permute(0, 3, 1, 2), ("channels are last in the file",)
    if tensor.dtype != torch.uint8:
        tensor = _finite(tensor.float(), what)
    return tensor.contiguous(), notes


def labels_of(value: Any, what: str) -> tuple[Tensor | None, Tensor | None]:
    """A tensor or list as hard labels, int64 [N], or as numbers for every class, float32 [N, K]; the other is None.

    Raises:
        InputError: neither.
    """
    if isinstance(value, list | tuple) and value and all(isinstance(label, int) for label in value):
        value = torch.tensor([min(max(label, -1), 10**9) for label in value])
    tensor = _honest(value, what)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and tensor.is_floating_point():
        return None, _finite(tensor.float(), what).contiguous()
    if tensor.ndim != 1 or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(
            f"{what} holds {tensor.dtype} of shape {_shape(tensor)}; labels are whole numbers [N], or floats [N, K]"
        )
    whole = _finite(tensor.double(), what)
    if len(whole) and (bool((whole != whole.round()).any()) or not 0 <= float(whole.min()) <= float(whole.max()) < 1e6):
        raise InputError(
            f"{what} runs from {float(whole.min()):g} to {float(whole.max()):g}; labels count classes from 0"
        )
    return whole.long(), None


def number_of(value: Any, what: str) -> float:
    """A number, or a tensor of one; NaN for anything else. Raises InputError for a tensor that is not what it says."""
    if isinstance(value, Tensor):
        tensor = _honest(value, what)
        return float(tensor.double().reshape(-1)[0]) if tensor.numel() == 1 and not tensor.is_complex() else math.nan
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e30 else math.nan


def check_rate(rate: float, what: str) -> float:
    """`rate`, where it can be a learning rate. Raises InputError for anything but a positive finite number."""
    if not 0 < rate < 1e6:
        raise InputError(f"{what} is {rate:g}, which is no learning rate; give a positive number, e.g. --rate 0.02")
    return rate


def _honest(value: Any, what: str) -> Tensor:
    """A dense CPU tensor that holds as many values as it says."""
    if not isinstance(value, Tensor):
        raise InputError(f"{what} are a {type(value).__name__}; save them as a tensor")
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        raise InputError(f"{what} is no plain tensor; save it again as a dense one")
    value = value.detach()
    if value.numel() > MOST_VALUES or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f"{what} announces {value.numel()} values; at most {MOST_VALUES}, each of them in the file, are allowed"
        )
    return value


def _finite(tensor: Tensor, what: str) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{what} has values that are not finite; ask its makers for another file")
    return tensor


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
