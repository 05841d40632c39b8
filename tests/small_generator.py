"""Small generators of the digits, untrained, for tests that need one in milliseconds; one of them somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.generator import GeneratorConfig, GeneratorItems
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.generators.codec import GeneratorCodec
from attar.models.generators.generator import OwnSpec, save_generator
from attar.models.networks.synthesis import Synthesis, SynthesisConfig, build_synthesis
from small_sets import CLASSES, digit_images

SMALL_SYNTHESIS = SynthesisConfig(width=16, latent_size=6, noise_size=4)
MODULE = "small_generator:Painter"


def small_synthesis(image_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> Synthesis:
    return build_synthesis(SMALL_SYNTHESIS, image_shape, num_classes, generator(3, "synthesis"))


def generator_codec(train: ImageSet) -> GeneratorCodec:
    network = small_synthesis(train.image_shape, train.num_classes).requires_grad_(False).eval()
    classes = {name: number for number, name in enumerate(train.classes)}
    codec = GeneratorCodec(network, OwnSpec.of(network))
    codec.choose_classes(classes)
    return codec


def generator_items(train: ImageSet, preprocess: Codec, count: int = 2, **settings: Any) -> GeneratorItems:
    config = GeneratorConfig(**{"depth": 2, **settings})
    draw = generator(5, "items")
    return GeneratorItems.initial(config, generator_codec(train), preprocess, train.classes, count, draw)


def digit_generator_items(**settings: Any) -> GeneratorItems:
    train = digit_images()
    return generator_items(train, fit_codec(PixelsConfig(), train), **settings)


def saved_synthesis(path: Path, classes: Sequence[str] = CLASSES) -> Path:
    """A file of attar's own generator, of the digits' classes."""
    save_generator(small_synthesis(), path, classes)
    return path


class Painter(nn.Module):
    """Somebody else's: a w for each of its two layers, no classes."""

    def __init__(self, width: int = 4, side: int = 8) -> None:
        super().__init__()
        self.image_shape, self.latent_shape = (1, side, side), (2, 5)
        self.noise_size, self.num_classes, self.num_layers = 3, 0, 1
        self.enter = nn.Linear(3, 10)
        self.grow = nn.Linear(5, width * side * side)
        self.scale = nn.Linear(5, width)
        self.paint = nn.Conv2d(width, 1, 3, padding=1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def mapping(self, noise: Tensor, classes: Tensor) -> Tensor:
        return self.enter(noise).reshape(-1, 2, 5)

    def features(self, latents: Tensor, depth: int) -> Tensor:
        _, height, width = self.image_shape
        return self.grow(latents[:, 0]).reshape(len(latents), -1, height, width)

    def forward(self, latents: Tensor, features: Tensor | None = None, depth: int = 0) -> Tensor:
        maps = self.features(latents, 1) if features is None else features
        return self.paint(maps.tanh() * self.scale(latents[:, 1])[:, :, None, None])


class FrozenPainter(Painter):
    """Its values are buffers, without a parameter among them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for layer in self.children():
            for name, value in list(layer.named_parameters()):
                delattr(layer, name)
                layer.register_buffer(name, value.detach())


class PainterInPlace(Painter):
    """It overwrites what it is given, with twice as much and half of that."""

    def forward(self, latents: Tensor, features: Tensor | None = None, depth: int = 0) -> Tensor:
        for given in (latents, features):
            if given is not None:
                given.mul_(2).mul_(0.5)
        return super().forward(latents, features, depth)


def saved_painter(path: Path, **arguments: Any) -> Path:
    """The state dict of a painter with values of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(Painter(**arguments).state_dict(), path)
    return path
