"""A small diffusion model of the digits, untrained, for tests that need one in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.diffusion.codec import DiffusionCodec
from attar.models.diffusion.model import OwnModel
from attar.models.diffusion.priors import PriorTraining, save_prior
from attar.models.diffusion.schedule import SamplingConfig, ScheduleConfig
from attar.models.networks.denoiser import DenoiserConfig, build_denoiser
from small_sets import CLASSES, digit_images, first_items

SMALL_DENOISER = DenoiserConfig(width=8, levels=2, conditioning_size=12)


class Noted(Silent):
    """A progress that collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def small_model(code_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> OwnModel:
    network = build_denoiser(SMALL_DENOISER, code_shape, num_classes, generator(3, "denoiser"))
    return OwnModel(network, ScheduleConfig())


def diffusion_codec(inner: Codec, num_classes: int = 10) -> DiffusionCodec:
    return DiffusionCodec(inner, small_model(inner.code_shape, num_classes))


def diffusion_items(inner: Codec, train: ImageSet, preprocess: Codec, count: int = 2, **settings: Any) -> Diffusion:
    """The first `count` real images of each class, encoded."""
    told = {
        name: settings.pop(name)
        for name in ("storage", "learned", "chunk_items", "checkpointed", "precision")
        if name in settings
    }
    config = DiffusionConfig(sampling=SamplingConfig(**{"num_steps": 3, **settings}), **told)
    codes = inner.encode(train.images[first_items(train, count)].float() / 255)
    labels = class_major_labels(train.num_classes, count)
    return Diffusion(
        diffusion_codec(inner, train.num_classes), codes, labels, config, 11, preprocess=preprocess, classes=labels
    )


def digit_items(**settings: Any) -> Diffusion:
    train = digit_images()
    codec = fit_codec(PixelsConfig(), train)
    return diffusion_items(codec, train, codec, **settings)


def gradients(items: Diffusion, chosen: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Of a fixed random functional of the network inputs, with respect to codes and conditioning."""
    chosen = torch.arange(len(items)) if chosen is None else chosen
    inputs = items(chosen)
    directions = torch.randn(inputs.shape, generator=generator(0, "direction"), dtype=inputs.dtype)
    learned = [value for value in (items.codes, items.conditioning) if value.requires_grad]
    return list(torch.autograd.grad((inputs * directions).sum(), learned))


def saved_prior(path: Path) -> Path:
    """A file of the untrained model, of the digits' classes."""
    codec = fit_codec(PixelsConfig(), digit_images())
    told = PriorTraining(denoiser=SMALL_DENOISER)
    save_prior(codec, small_model(), path, classes=CLASSES, data="", training=told, loss=1.0)
    return path
