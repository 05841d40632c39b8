"""Region labels: which crop of which canvas a network sees in an epoch, from a few numbers that nobody stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.randomness import Counter
from attar.base.shapes import Float, Int64
from attar.data.augmentation import Dsa, DsaConfig, DsaParameters, cutmix_boxes, paste
from attar.data.resizing import Grid, crop_and_resize, tile_boxes
from attar.methods.composition import Composition, Unmet
from attar.methods.labels.hard import LabelsConfig
from attar.models.codecs.codec import Codec

#: Indices of canvases, int64 [B], to images [B, C, H, W] nominally in [0, 1], on the same device.
Canvases: TypeAlias = Callable[[Tensor], Tensor]

DEFAULT_TOP_K, DEFAULT_CODE_BYTES = 5, 16
SMALLEST_AREA, WIDEST_RATIO, FEWEST_PIXELS = 1e-4, 4 / 3, 1.5
# Canvases of up to so many values (1 GiB) are rendered once and stay in memory.
LARGEST_KEPT_VALUES = 2**28
CHUNK_VALUES = 2**21


@runtime_checkable
class Labeller(Protocol):
    """An observer as far as labels need one; `classes` and what `ObserverFacts` says are read where it has them."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] nominally in [0, 1], of each image independently of the others."""


class RegionLabels(LabelsConfig):
    """A region of every canvas in every epoch, and the observer's logits of exactly that region as its label.

    `draw_regions` draws them from the seed and the epoch alone, and nobody stores them.

    Args:
        epochs: E, label sets; epoch e of a training uses set e mod E.
        storage: of the logits. "float16"; "int8" with a scale and an offset for each region; "top-k": the largest and
            the mass of all others; "codebook": a few bytes that stand for all of them; "online": none, and whoever
            trains needs the observer, whose bytes count as labels.
        top_k: logits kept of each region, with storage "top-k".
        code_bytes: of each region, with storage "codebook".
        label_bytes: the most that all stored logits may take: `epochs` is lowered to what fits; None: no limit.
        scale: least and largest area of a crop, as fractions of the canvas or tile that it is taken from.
        tile_probability: that a region is taken from one tile alone, enlarged, instead of from the whole canvas.
        flip: probability that a region is mirrored; 0 for digits and letters.
        mix: "cutmix" pastes a rectangle of another canvas's region into each.
        augmentation: DSA of every region, in the space of network inputs; the observer sees what it makes.

    Raises:
        InputError: a setting without effect, or a scale that is no range of fractions.

    Source: Shen & Xing 2022 (FKD); LIC section 2.3; SRe2L, which mixes; CIM's code, which takes tiles with probability
        0.75.
    Deviation: FKD stores every box and label. Mode "single" of DSA draws an operation for each region; training draws
        one for each batch.
    """

    asks_observer: ClassVar[bool] = True
    limits_bytes: ClassVar[bool] = True

    kind: Literal["regions"] = "regions"
    epochs: int = Field(default=300, ge=1, le=2**20)
    storage: Literal["float16", "int8", "top-k", "codebook", "online"] = "float16"
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1, le=10_000)
    code_bytes: int = Field(default=DEFAULT_CODE_BYTES, ge=1, le=256)
    label_bytes: int | None = Field(default=None, ge=1)
    scale: tuple[float, float] = (0.08, 1.0)
    tile_probability: float = Field(default=0.0, ge=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    mix: Literal["none", "cutmix"] = "none"
    augmentation: DsaConfig | None = None

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        if recipe.parameterization.stochastic:
            text = f"{recipe.parameterization.kind} are drawn anew in every epoch, so that no region has a label"
            yield Unmet("fixed items", f"{text}; set labels.kind to hard or soft")

    def without_flip(self) -> RegionLabels:
        """The same without mirrored regions."""
        augmentation = self.augmentation and self.augmentation.without_flip()
        return self.model_copy(update={"flip": 0.0, "augmentation": augmentation})

    @field_validator("scale")
    @classmethod
    def _is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not SMALLEST_AREA <= scale[0] <= scale[1] <= 1:
            raise InputError(f"scale is {scale}; give least and largest area, {SMALLEST_AREA} <= least <= largest <= 1")
        return scale

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> RegionLabels:
        if self.storage != "top-k" and self.top_k != DEFAULT_TOP_K:
            raise InputError(f"top_k has no effect with storage {self.storage!r}; leave it out, or take 'top-k'")
        if self.storage != "codebook" and self.code_bytes != DEFAULT_CODE_BYTES:
            raise InputError(
                f"code_bytes has no effect with storage {self.storage!r}; leave it out, or take 'codebook'"
            )
        if self.augmentation is not None and self.augmentation.mode == "mixed":
            raise InputError("regions have no augmentation of mode 'mixed'; take 'single' or 'multiple'")
        if self.storage == "online" and self.label_bytes is not None:
            raise InputError("label_bytes has no effect with storage 'online', which stores nothing; leave it out")
        return self


class ObserverFacts(Config):
    """What a file says of the observer behind its labels.

    Args:
        identity: sha256 over architecture, preprocessing and weights.
        num_bytes: of its weights as float32.
        network: its architecture in words, or "".
    """

    identity: str = Field(pattern="^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=1, lt=2**48)
    network: str = Field(default="", pattern="^[ -~]{0,200}$")

    @classmethod
    def of(cls, observer: Labeller) -> ObserverFacts | None:
        """The facts of an observer; None where it does not say them."""
        identity, num_bytes = getattr(observer, "identity", None), getattr(observer, "num_bytes", None)
        if not isinstance(identity, str) or not isinstance(num_bytes, int):
            return None
        config = getattr(observer, "config", None)
        return cls(identity=identity, num_bytes=num_bytes, network=str(getattr(config, "name", "")))

    @classmethod
    def unknown(cls, network: str) -> ObserverFacts:
        """Facts that take as many bytes in a file as those of an observer that is still to be trained can take."""
        return cls(identity="0" * 64, num_bytes=2**48 - 1, network=network)


@dataclass(frozen=True)
class RegionParameters:
    """One epoch's regions: where each canvas is cropped, and what is done to the crop, in the order of the fields.

    Args:
        boxes: float64 [M, 4], rows (top, left, height, width) as fractions of the canvas's sides.
        flipped: bool [M].
        augmentation: values of DSA's operations for every region, or None.
        operations: int64 [M], which one of them is applied, in mode "single"; None: all.
        partners: int64 [M], the canvas whose region is pasted in, or None.
        pasted: int64 [M, 4], (top, left, bottom, right) of the rectangle in pixels; None without partners.
    """

    boxes: Float[Tensor, "canvases 4"]
    flipped: Tensor
    augmentation: DsaParameters | None = None
    operations: Tensor | None = None
    partners: Int64[Tensor, " canvases"] | None = None
    pasted: Int64[Tensor, "canvases 4"] | None = None

    def rows(self, items: Int64[Tensor, " batch"]) -> RegionParameters:
        """The parameters of some canvases. Partners remain indices among all canvases."""
        return self._map(lambda tensor: tensor[items])

    def to(self, device: torch.device | str) -> RegionParameters:
        """The same on another device; fractions stay float64 where it has them."""
        without_doubles = torch.device(device).type == "mps"
        return self._map(
            lambda tensor: (tensor.float() if without_doubles and tensor.dtype == torch.float64 else tensor).to(device)
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> RegionParameters:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.augmentation is not None:
            values = {name: change(value) for name, value in self.augmentation.values.items()}
            changed["augmentation"] = replace(self.augmentation, values=values)
        return replace(self, **changed)


def draw_regions(
    config: RegionLabels, epoch: int, num_canvases: int, image_shape: tuple[int, int, int], grid: int = 1, seed: int = 0
) -> RegionParameters:
    """The regions of one epoch.

        area a ~ U(scale) and ratio r (log-uniform from 3/4 to 4/3, within what fits) of a field: the canvas or a tile;
        height sqrt(a / r), width sqrt(a r) of the field's sides, at a uniform place in it

    All numbers are `Counter(seed, "regions", epoch mod E)`'s, call by call in this order: tile or canvas, which tile,
    area, ratio, top, left, flip, partner, share, row and column of the rectangle, operation; then DSA's. So those of
    canvas i depend neither on M (but for its partner) nor on which options are on.

    Args:
        config: what to draw.
        epoch: of the training.
        num_canvases: M.
        image_shape: (C, H, W) of a canvas.
        grid: tiles along each side of a canvas.
        seed: of the labels.

    Source: torchvision's RandomResizedCrop, as FKD, SRe2L and RDED use it; CutMix as `draw_cutmix`, for every region.
    Deviation: boxes end at fractions of pixels, and the ratio is drawn from what fits the area; torchvision rounds, and
        draws area and ratio anew until they fit. A box is at least 1.5 pixels high and wide.
    """
    counter = Counter(seed, "regions", epoch % config.epochs)
    numbers = [counter.uniform(num_canvases) for _ in range(12)]
    size = image_shape[1], image_shape[2]
    fields = _fields(config, numbers[0], numbers[1], size, grid)
    regions = RegionParameters(_boxes(config, fields, torch.stack(numbers[2:6]), size), numbers[6] < config.flip)
    if config.mix == "cutmix":
        # Never the canvas itself, where there is another.
        steps = 1 + (numbers[7] * (num_canvases - 1)).long()
        partners = (torch.arange(num_canvases) + steps) % num_canvases
        regions = replace(regions, partners=partners, pasted=cutmix_boxes(numbers[8], numbers[9], numbers[10], size))
    if config.augmentation is None:
        return regions
    every_operation = Dsa(config.augmentation.model_copy(update={"mode": "multiple"}))
    augmentation = every_operation.draw(num_canvases, image_shape, counter, siamese=False)
    single = config.augmentation.mode == "single"
    operations = (numbers[11] * len(augmentation.operations)).long() if single else None
    return replace(regions, augmentation=augmentation, operations=operations)


def apply_regions(
    images: Float[Tensor, "canvases C H W"], parameters: RegionParameters, preprocess: Codec | None = None
) -> Float[Tensor, "canvases C H W"]:
    """The region of every canvas, as large as a canvas: cropped and resized, flipped, augmented, then mixed.

    Args:
        images: the canvases, nominally in [0, 1].
        parameters: of all canvases, on the images' device.
        preprocess: images to network inputs, in whose space regions are augmented.

    Raises:
        ValueError: an augmentation without a `preprocess`.
    """
    return _region_images(images.__getitem__, parameters, torch.arange(len(images)), preprocess)


def _region_images(
    canvases: Canvases, parameters: RegionParameters, items: Int64[Tensor, " batch"], preprocess: Codec | None
) -> Float[Tensor, "batch C H W"]:
    views = _views(canvases(items), parameters.rows(items), preprocess)
    if parameters.partners is None or parameters.pasted is None:
        return views
    partners = parameters.partners[items]
    return paste(views, _views(canvases(partners), parameters.rows(partners), preprocess), parameters.pasted[items])


@dataclass(frozen=True)
class Regions:
    """All regions of some canvases. Canvases are rendered once and stay in memory where they are few enough.

    Args:
        canvases: indices to images.
        num_canvases: M.
        image_shape: (C, H, W) of a canvas.
        config: which regions.
        preprocess: images to network inputs.
        grid: tiles along each side of a canvas.
        seed: of the regions.
        device: where regions are made.
    """

    canvases: Canvases
    num_canvases: int
    image_shape: tuple[int, int, int]
    config: RegionLabels
    preprocess: Codec
    grid: int = 1
    seed: int = 0
    device: torch.device | str = "cpu"

    def draw(self, epoch: int) -> RegionParameters:
        """The regions of one epoch, on the device."""
        drawn = draw_regions(self.config, epoch, self.num_canvases, self.image_shape, self.grid, self.seed)
        return drawn.to(self.device)

    def images(self, parameters: RegionParameters, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch C H W"]:
        """The regions of some canvases as images."""
        all_canvases = self._all_canvases
        canvases = self._rendered if all_canvases is None else all_canvases.__getitem__
        return _region_images(canvases, parameters, items, self.preprocess)

    @torch.no_grad()
    def logits(
        self, observer: Labeller, epoch: int, batch_size: int = 256, done: Callable[[int], object] = lambda count: None
    ) -> Float[Tensor, "canvases classes"]:
        """The observer's logits of every region of an epoch, float32 on the device; calls `done` after each batch.

        Raises:
            InputError: a logit that is not finite.
        """
        parameters, batches = self.draw(epoch), []
        for items in torch.arange(self.num_canvases, device=self.device).split(batch_size):
            batches.append(observer.logits(self.images(parameters, items)).float())
            done(len(items))
        logits = torch.cat(batches)
        if not bool(logits.isfinite().all()):
            raise InputError(f"the observer's logits in epoch {epoch} are not all finite; train another observer")
        return logits

    @cached_property
    def _all_canvases(self) -> Tensor | None:
        few = self.num_canvases * math.prod(self.image_shape) <= LARGEST_KEPT_VALUES
        return self._rendered(torch.arange(self.num_canvases, device=self.device)) if few else None

    @torch.no_grad()
    def _rendered(self, items: Tensor) -> Tensor:
        chunk = max(1, min(512, CHUNK_VALUES // math.prod(self.image_shape)))
        return torch.cat([self.canvases(part).float() for part in items.split(chunk)])


def _fields(
    config: RegionLabels, coin: Tensor, place: Tensor, size: tuple[int, int], grid: int
) -> Float[Tensor, "canvases 4"]:
    """Where each crop is taken from: (top, left, height, width) of the canvas or of a tile, in pixels."""
    corners = tile_boxes(*size, Grid(grid)).double()
    tiles = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    whole = torch.tensor([0, 0, *size], dtype=torch.float64)
    from_a_tile = (coin < config.tile_probability).unsqueeze(1)
    return torch.where(from_a_tile, tiles[(place * len(tiles)).long()], whole)


def _boxes(
    config: RegionLabels, fields: Tensor, numbers: Float[Tensor, "4 canvases"], size: tuple[int, int]
) -> Float[Tensor, "canvases 4"]:
    """Random crops of fields in pixels, as fractions of the canvas's sides."""
    top, left, height, width = fields.unbind(1)
    area = config.scale[0] + (config.scale[1] - config.scale[0]) * numbers[0]
    # The ratio of fractions that is WIDEST_RATIO in pixels, within what an area of `a` can have.
    shape = height / width
    low = torch.minimum(torch.maximum(shape / WIDEST_RATIO, area), 1 / area)
    high = torch.minimum(torch.maximum(shape * WIDEST_RATIO, area), 1 / area)
    ratio = low * (high / low) ** numbers[1]
    # A crop is never longer than its field, nor so short that no pixel lies in it.
    crop_height = torch.minimum(((area / ratio).sqrt() * height).clamp_min(FEWEST_PIXELS), height)
    crop_width = torch.minimum(((area * ratio).sqrt() * width).clamp_min(FEWEST_PIXELS), width)
    top, left = top + (height - crop_height) * numbers[2], left + (width - crop_width) * numbers[3]
    sides = torch.tensor([*size, *size], dtype=torch.float64)
    return torch.stack([top, left, crop_height, crop_width], 1) / sides


def _views(images: Tensor, parameters: RegionParameters, preprocess: Codec | None) -> Tensor:
    """The regions of these canvases before they are mixed."""
    views = crop_and_resize(images, parameters.boxes, (images.shape[2], images.shape[3]))
    views = torch.where(parameters.flipped.view(-1, 1, 1, 1), views.flip(3), views)
    if parameters.augmentation is None:
        return views
    if preprocess is None:
        raise ValueError("regions are augmented as network inputs; give the preprocess")
    inputs = preprocess.encode(views)
    return preprocess.decode(_augmented(inputs, parameters.augmentation, parameters.operations))


def _augmented(inputs: Tensor, augmentation: DsaParameters, operations: Tensor | None) -> Tensor:
    dsa = Dsa(DsaConfig())
    if operations is None:
        return dsa.apply(inputs, augmentation)
    inputs = inputs.clone()
    for place, name in enumerate(augmentation.operations):
        rows = (operations == place).nonzero()[:, 0]
        if len(rows):
            values = {key: value[rows] for key, value in augmentation.values.items()}
            inputs[rows] = dsa.apply(inputs[rows], DsaParameters((name,), values))
    return inputs
