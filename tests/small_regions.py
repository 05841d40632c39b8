"""A small trained observer and sets of regions, for the tests of region labels."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.data.resizing import Grid, squeeze
from attar.methods.labels.regions import RegionLabels
from attar.methods.parameterizations.mosaic import Mosaic
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import Network
from attar.models.networks.registry import network_from_text
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from small_sets import CLASSES, RECIPE, digit_images, first_items

DSA = DsaConfig(strategy="color_crop_cutout_scale_rotate")
STORAGES = ("float16", "int8", "top-k", "codebook", "online")
SMALL: dict[str, dict[str, Any]] = {"top-k": {"top_k": 3}, "codebook": {"code_bytes": 4}}
"""What a storage needs beside its name with ten classes."""


class SmallObserver:
    """A network that knows the digits."""

    identity, num_bytes = "ab" * 32, 4000

    def __init__(self, network: Network) -> None:
        self._network = network
        self.num_calls = 0

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        self.num_calls += 1
        return self._network((images - 0.3) / 0.35)


@cache
def halves() -> tuple[ImageSet, ImageSet]:
    every = digit_images()
    order = torch.randperm(len(every), generator=generator(0, "halves"))
    return every.select(order[:1200]), every.select(order[1200:])


@cache
def trained() -> Network:
    train, _ = halves()
    items = FixedItems((train.images.float() / 255 - 0.3) / 0.35, train.labels)
    training = TrainingConfig(epochs=6, batch_size=64, learning_rate=0.05)
    return train_networks(network_from_text("convnet:d2w16"), items, 10, training, [0])[0]


def observer() -> SmallObserver:
    return SmallObserver(trained())


def mosaic(grid: int = 2, count: int = 2) -> DistilledSet:
    """`count` canvases of each digit, pixels as int8."""
    train, _ = halves()
    codec = fit_codec(PixelsConfig(), train)
    indices = first_items(train, count * grid * grid)
    canvases = squeeze(train.images[indices].float() / 255, Grid(grid))
    items = Mosaic(codec, codec.encode(canvases), train.labels[indices], "int8", preprocess=codec, grid=grid)
    facts: dict[str, Any] = {"classes": CLASSES, "recipe": RECIPE, "data": ("digits", train)}
    return DistilledSet.build(items, codec, initial=("random", indices.tolist()), **facts)


def settings(**changes: Any) -> RegionLabels:
    return RegionLabels(**{"epochs": 3, "flip": 0.0, **changes})


def canvases_of(count: int, height: int = 7, width: int = 9) -> Tensor:
    return torch.rand(count, 2, height, width, generator=generator(3, "canvases"), dtype=torch.float64)


def logits_of(count: int, num_classes: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(count, num_classes, generator=generator(1, "logits"))
