"""Distilled sets of the digits, made in milliseconds, for the tests of the file room."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from attar.data.image_set import ImageSet
from attar.methods.parameterizations.codes import Codes, LabelStorage, Storage
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.sets.distilled import DistilledSet

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RECIPE = {"name": "latent-dm", "steps": 20, "citations": ["latentdd", "dm"]}


@cache
def digit_images() -> ImageSet:
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[:, None]
    return ImageSet(images, torch.tensor(data.target), CLASSES)


def first_items(images: ImageSet, count: int) -> Tensor:
    return torch.cat([members[:count] for members in images.class_indices])


def logits_for(count: int) -> Tensor:
    """Soft labels of `count` items of each class: some numbers, the largest at the item's class."""
    noise = torch.randn(10 * count, 10, generator=torch.Generator().manual_seed(7))
    return noise.clamp(-2, 2) + 5 * torch.eye(10).repeat_interleave(count, 0)


def build(
    images: ImageSet,
    codec_text: str = "pca:f4c4",
    storage: Storage = "int8",
    count: int = 3,
    soft: LabelStorage | None = None,
    **changes: Any,
) -> DistilledSet:
    """The undistilled first `count` items of each class; `changes` replace what `DistilledSet.build` is given."""
    codec = fit_codec(codec_from_text(codec_text), images)
    preprocess = codec if isinstance(codec, Pixels) else fit_codec(PixelsConfig(), images)
    indices = first_items(images, count)
    encoded = codec.encode(images.images[indices].float() / 255)
    logits = None if soft is None else logits_for(count)
    codes = Codes(codec, encoded, images.labels[indices], storage, logits, soft or "float16")
    facts: dict[str, Any] = {
        "classes": images.classes,
        "recipe": RECIPE,
        "data": ("digits", images),
        "initial": ("random", indices.tolist()),
    }
    return DistilledSet.build(codes, preprocess, **{**facts, **changes})
