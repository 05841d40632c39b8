"""Differentiable siamese augmentation and CutMix on whole batches: parameters are drawn first, then applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError, unknown
from attar.base.randomness import Counter
from attar.base.shapes import Float, Int64

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
_FIRST, _LAST = ("flip", "color"), ("cutout",)  # of mode "mixed"


class DsaConfig(Config):
    """Which augmentations, how strong, and how many at once.

    Args:
        strategy: operations joined by "_", of color, crop, cutout, flip, scale, rotate; leave out flip for digits.
        mode: "single" applies one operation of the strategy, drawn for each batch (the field's mode S), "multiple" all
            of them in the order of the strategy (its mode M), "mixed" flip, color, one of crop, scale and rotate, drawn
            for each batch, and cutout, as far as they are in the strategy (IDC's).
        flip: probability of a horizontal flip.
        scale: largest factor s; both sides are scaled by factors from 1/s to s.
        rotate: largest angle, in degrees, either way.
        crop: largest shift, as a fraction of the side.
        cutout: side of the square set to zero, as a fraction of the side.
        brightness: added, from -b/2 to b/2, in units of network inputs.
        saturation: factor of the distance from grey, from 0 to s.
        contrast: factor of the distance from the image's mean, from c to 1 + c.

    Raises:
        InputError: an operation that does not exist or is listed twice.
    """

    strategy: str = "color_crop_cutout_flip_scale_rotate"
    mode: Literal["single", "multiple", "mixed"] = "single"
    flip: float = Field(default=0.5, ge=0, le=1)
    scale: float = Field(default=1.2, ge=1)
    rotate: float = Field(default=15.0, ge=0, le=180)
    crop: float = Field(default=0.125, ge=0, le=1)
    cutout: float = Field(default=0.5, ge=0, le=1)
    brightness: float = Field(default=1.0, ge=0)
    saturation: float = Field(default=2.0, ge=0)
    contrast: float = Field(default=0.5, ge=0)

    @field_validator("strategy")
    @classmethod
    def _operations_exist_once(cls, strategy: str) -> str:
        names = strategy.split("_")
        for name in names:
            if name not in OPERATIONS:
                raise unknown("augmentation", name, OPERATIONS)
            if names.count(name) > 1:
                raise InputError(f"augmentation {name!r} is listed twice in {strategy!r}; list it once")
        return strategy

    @property
    def operations(self) -> tuple[str, ...]:
        """The names in `strategy`, in order."""
        return tuple(self.strategy.split("_"))

    def without_flip(self) -> DsaConfig | None:
        """The same without mirroring; None where nothing else is left."""
        others = [operation for operation in self.operations if operation != "flip"]
        return self.model_copy(update={"strategy": "_".join(others)}) if others else None


@dataclass(frozen=True)
class DsaParameters:
    """What was drawn for one batch: the operations to apply, in order, and their values on the CPU.

    Args:
        operations: names from OPERATIONS.
        values: for each drawn quantity a tensor [1] (siamese: the same for every image) or [B].
    """

    operations: tuple[str, ...]
    values: dict[str, Tensor]


@runtime_checkable
class Augmentation(Protocol):
    """What augments a batch alike twice: parameters are drawn once and applied to real and to synthetic items.

    Attributes:
        per_item: whether parameters can be drawn for every item (siamese False), or only for the whole batch.
    """

    per_item: bool

    def draw(
        self, batch_size: int, image_shape: tuple[int, int, int], generator: torch.Generator, siamese: bool
    ) -> Any:
        """Parameters for one batch."""

    def apply(self, images: Tensor, parameters: Any) -> Tensor:
        """The augmented items, differentiable with respect to the items."""


class Dsa:
    """Differentiable siamese augmentation of network inputs, as in the field: after normalisation, never clamped.

    Zero, the mean colour, fills what crop, cutout, scale and rotate leave empty. Any number of channels is allowed;
    saturation does nothing to grey images.

    Example:
        >>> dsa = Dsa(DsaConfig())
        >>> drawn = dsa.draw(8, (3, 32, 32), torch.Generator().manual_seed(0), siamese=True)
        >>> real, synthetic = dsa.apply(torch.zeros(8, 3, 32, 32), drawn), dsa.apply(torch.zeros(2, 3, 32, 32), drawn)

    Source: Zhao & Bilen 2021 (DSA), section 3.2 and the settings of its code.
    Deviation: the two factors of scale, the two shifts and the three colour factors are drawn independently in siamese
        mode too; the official code re-seeds before each of them, which makes them one number. The official code takes
        the identity of a batch from the global generator; here a generator is passed.
    """

    per_item = True

    def __init__(self, config: DsaConfig) -> None:
        self.config = config

    def draw(
        self, batch_size: int, image_shape: tuple[int, int, int], generator: torch.Generator | Counter, siamese: bool
    ) -> DsaParameters:
        """Parameters for one batch.

        Args:
            batch_size: B, ignored when siamese.
            image_shape: (c, h, w) of the network inputs.
            generator: on the CPU; nothing else is random. From a `Counter`, image i's numbers do not depend on B.
            siamese: one set of parameters for all images, which then fits batches of every size; else one an image.
        """
        names = _chosen(self.config, generator)
        count = 1 if siamese else batch_size
        values: dict[str, Tensor] = {}
        for name in names:
            values |= _draw(name, self.config, count, image_shape[1:], generator)
        return DsaParameters(names, values)

    def apply(self, images: Float[Tensor, "items c h w"], parameters: DsaParameters) -> Float[Tensor, "items c h w"]:
        """The augmented images, differentiable with respect to the images.

        Raises:
            ValueError: parameters drawn for another batch size (and not siamese).
        """
        for name in parameters.operations:
            images = _APPLY[name](images, _moved(parameters.values, images))
        return images


def cutmix(
    images: Float[Tensor, "items c h w"],
    labels: Int64[Tensor, " items"] | Float[Tensor, "items classes"],
    generator: torch.Generator,
    probability: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pastes a rectangle of another image of the batch into each. Labels are classes, or probabilities of every class.

    Args:
        probability: that an image receives a rectangle at all, in [0, 1].

    Returns:
        images; labels_a (the image's own); labels_b (the other's); weight [B], the share of the area still its own.
        The loss is weight * loss(labels_a) + (1 - weight) * loss(labels_b).
    """
    height, width = images.shape[2:]
    drawn = draw_cutmix(len(images), (height, width), generator, probability)
    partners, boxes = (part.to(images.device) for part in drawn)
    top, left, bottom, right = boxes.unbind(1)
    weight = 1 - ((bottom - top) * (right - left)).to(images.dtype) / (height * width)
    return paste(images, images[partners], boxes), labels, labels[partners], weight


def draw_cutmix(
    count: int, size: tuple[int, int], generator: torch.Generator, probability: float
) -> tuple[Int64[Tensor, " items"], Int64[Tensor, "items 4"]]:
    """Whose rectangle each of `count` images receives, a permutation, and where; an untouched image has an empty box.

        l ~ U(0, 1); sides sqrt(1 - l) of the image's, centre uniform, cut at the borders

    Source: Yun et al. 2019 (CutMix), equation 2, with alpha = 1.
    Deviation: one coin and one box for each image; the official code has one for the whole batch.
    """
    partners = torch.randperm(count, generator=generator)
    share, coin, row, column = torch.rand(4, count, generator=generator)
    return partners, cutmix_boxes(share, row, column, size) * (coin < probability).unsqueeze(1)


def cutmix_boxes(
    share: Float[Tensor, " items"],
    row: Float[Tensor, " items"],
    column: Float[Tensor, " items"],
    size: tuple[int, int],
) -> Int64[Tensor, "items 4"]:
    """(top, left, bottom, right) of each rectangle: sides sqrt(1 - share) of the image's, cut at the borders.

    Args:
        share: l of `draw_cutmix`, in [0, 1].
        row, column: of the centre, as fractions of the sides.
        size: (h, w) in pixels.
    """
    sides = torch.tensor(size)
    cut = ((1 - share).sqrt().unsqueeze(1) * sides).long()
    centre = (torch.stack([row, column], 1) * sides).long()
    start = (centre - cut // 2).clamp_min(0)
    end = torch.minimum(centre + cut // 2, sides)
    return torch.cat([start, end], 1)


def paste(
    images: Float[Tensor, "items c h w"], others: Float[Tensor, "items c h w"], boxes: Int64[Tensor, "items 4"]
) -> Float[Tensor, "items c h w"]:
    """Images with each one's box, (top, left, bottom, right), filled from the other of the same place."""
    return torch.where(_inside(images, *boxes.to(images.device).unbind(1)), others, images)


def _chosen(config: DsaConfig, generator: torch.Generator | Counter) -> tuple[str, ...]:
    """The operations of one batch, in the order in which they are applied."""
    names = config.operations
    if config.mode == "multiple":
        return names
    drawn = [name for name in names if config.mode == "single" or name not in _FIRST + _LAST]
    one = [drawn[int(_integers(generator, 1, 0, len(drawn) - 1))]] if drawn else []
    if config.mode == "single":
        return tuple(one)
    first, last = ([name for name in always if name in names] for always in (_FIRST, _LAST))
    return (*first, *one, *last)


def _draw(
    name: str, config: DsaConfig, count: int, size: tuple[int, ...], generator: torch.Generator | Counter
) -> dict[str, Tensor]:
    height, width = size
    uniform, integer = partial(_uniforms, generator, count), partial(_integers, generator, count)
    if name == "color":
        half = config.brightness / 2
        return {
            "brightness": uniform(-half, half),
            "saturation": uniform(0.0, config.saturation),
            "contrast": uniform(config.contrast, 1 + config.contrast),
        }
    if name == "crop":
        rows, columns = (int(side * config.crop + 0.5) for side in size)
        return {"shift_rows": integer(-rows, rows), "shift_columns": integer(-columns, columns)}
    if name == "cutout":
        rows, columns = (int(side * config.cutout + 0.5) for side in size)
        top = integer(0, height - rows % 2) - rows // 2
        left = integer(0, width - columns % 2) - columns // 2
        return {"top": top, "left": left, "bottom": top + rows, "right": left + columns}
    if name == "flip":
        return {"flipped": uniform(0.0, 1.0) < config.flip}
    if name == "scale":
        return {f"scale_{axis}": uniform(1 / config.scale, config.scale) for axis in ("x", "y")}
    limit = math.radians(config.rotate)
    return {"angle": uniform(-limit, limit)}


def _uniforms(generator: torch.Generator | Counter, count: int, low: float, high: float) -> Tensor:
    """float32 [count] from low to high."""
    drawn = generator.uniform(count) if isinstance(generator, Counter) else torch.rand(count, generator=generator)
    return drawn * (high - low) + low


def _integers(generator: torch.Generator | Counter, count: int, low: int, high: int) -> Tensor:
    """int64 [count] from low to high, both included."""
    if isinstance(generator, Counter):
        return (generator.uniform(count) * (high - low + 1)).long() + low
    return torch.randint(low, high + 1, (count,), generator=generator)


def _moved(values: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    count = next(iter(values.values())).shape[0]
    if count not in (1, len(images)):
        raise ValueError(f"parameters drawn for {count} images are applied to {len(images)}; draw siamese ones")
    return {
        name: value.to(images.device, images.dtype if value.is_floating_point() else None, non_blocking=True)
        for name, value in values.items()
    }


def _color(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    brightness, saturation, contrast = (
        values[name].view(-1, 1, 1, 1) for name in ("brightness", "saturation", "contrast")
    )
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * saturation + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean


def _crop(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Pixel (r, c) becomes pixel (r + shift_rows, c + shift_columns) of the image, zero outside."""
    for axis, shifts in ((2, values["shift_rows"]), (3, values["shift_columns"])):
        size = images.shape[axis]
        source = torch.arange(size, device=images.device) + shifts.unsqueeze(1)
        view = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
        inside = ((source >= 0) & (source < size)).view(view)
        images = images.gather(axis, source.clamp(0, size - 1).view(view).expand_as(images)) * inside
    return images


def _cutout(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    return images * ~_inside(images, values["top"], values["left"], values["bottom"], values["right"])


def _flip(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    return torch.where(values["flipped"].view(-1, 1, 1, 1), images.flip(3), images)


def _scale(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    zero = torch.zeros_like(values["scale_x"])
    return _affine(images, [values["scale_x"], zero, zero, values["scale_y"]])


def _rotate(images: Tensor, values: dict[str, Tensor]) -> Tensor:
    cosine, sine = values["angle"].cos(), values["angle"].sin()
    return _affine(images, [cosine, -sine, sine, cosine])


def _affine(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """Bilinear sampling at the matrix (row-major, [n] each) times normalised (x, y), zero outside."""
    theta = F.pad(torch.stack(matrix, 1).view(-1, 2, 2), (0, 1))
    grid = F.affine_grid(theta, [len(theta), *images.shape[1:]], align_corners=False)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def _inside(images: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """Bool [n, 1, h, w]: the pixels of n boxes, ends excluded."""
    rows = _interval(top, bottom, images.shape[2]).unsqueeze(2)
    return (rows & _interval(left, right, images.shape[3]).unsqueeze(1)).unsqueeze(1)


def _interval(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Bool [n, size], True from start up to and without end."""
    positions = torch.arange(size, device=start.device)
    return (positions >= start.unsqueeze(1)) & (positions < end.unsqueeze(1))


_APPLY = {"color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}
