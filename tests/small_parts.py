"""Sets of some of the digits' classes, made in milliseconds, for the tests of merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attar.data.image_set import ImageSet
from attar.methods.parameterizations.codes import Codes, LabelStorage, Storage
from attar.methods.parameterizations.decoders import DecoderConfig
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.sets.distilled import DistilledSet
from small_sets import RECIPE, digit_images, first_items


def images_of(names: Sequence[str]) -> ImageSet:
    return digit_images().with_classes(names)


def part(
    names: Sequence[str],
    count: int = 2,
    codec_text: str = "pca:f4c4",
    soft: LabelStorage | None = None,
    storage: Storage = "int8",
    normalised_as: ImageSet | None = None,
    **changes: Any,
) -> DistilledSet:
    """A party's set: the first `count` items of each of its classes, in a codec fitted to its images alone."""
    images = images_of(names)
    codec = fit_codec(codec_from_text(codec_text), images)
    whole = isinstance(codec, Pixels) and normalised_as is None
    preprocess = codec if whole else fit_codec(PixelsConfig(), normalised_as or images)
    indices = first_items(images, count)
    draw = torch.Generator().manual_seed(len(names))
    logits = None if soft is None else 3 * torch.randn(len(indices), len(names), generator=draw)
    encoded = codec.encode(images.images[indices].float() / 255)
    codes = Codes(codec, encoded, images.labels[indices], storage, logits, soft or "float16")
    return DistilledSet.build(codes, preprocess, **facts(images, indices.tolist()) | changes)


def priors_part(names: Sequence[str], count: int = 2) -> DistilledSet:
    """A party's distributions, as they start, with a decoder of their own."""
    images = images_of(names)
    codec = fit_codec(PixelsConfig(), images)
    config = PriorsConfig(decoder=DecoderConfig(latent_dim=4, width=8), storage="float16")
    draw = torch.Generator().manual_seed(len(names))
    priors = Priors.initial(config, codec, len(names), count, draw).eval()
    return DistilledSet.build(priors, codec, **facts(images, []) | {"initial": ("noise", [])})


def facts(images: ImageSet, indices: list[int]) -> dict[str, Any]:
    return {
        "classes": images.classes,
        "recipe": RECIPE,
        "data": ("digits", images),
        "initial": ("random", indices),
    }
