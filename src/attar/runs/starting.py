"""Where a run starts: the codec for these images, how many items fit the budget, and the first items themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.data.tiling import Grid
from attar.methods.initialization import KeySamplesConfig, Sources, initial_indices, key_samples
from attar.methods.initialization.sources import encoded
from attar.methods.labels import class_major_labels
from attar.methods.objectives.objective import NoObjectiveConfig
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.diffusion import NO_MODEL, Diffusion, DiffusionConfig
from attar.methods.parameterizations.generator import GeneratorConfig, GeneratorItems
from attar.methods.parameterizations.mosaic import Mosaic, MosaicConfig
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.methods.recipes import Recipe
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.diffusion.codec import DiffusionCodec
from attar.models.observers import Observer
from attar.models.real_items import RealItems, codes_to_hold, real_items


@dataclass(frozen=True)
class Spaces:
    """The spaces of a run, all of the same images.

    Args:
        codec: images <-> what is stored.
        preprocess: images -> network inputs; the codec itself where it is one of pixels.
        matching: images <-> what an objective sees: the codec; or `preprocess` for a mosaic, whose tiles become full
            images only once they are decoded and enlarged, and for items that a frozen model renders.
    """

    codec: Codec
    preprocess: Codec
    matching: Codec

    @classmethod
    def of(cls, recipe: Recipe, train: ImageSet) -> Spaces:
        """Fitted to the training images. Raises InputError where the recipe is for another image size."""
        sides = train.image_shape[1:]
        if recipe.image_size is not None and sides != (recipe.image_size, recipe.image_size):
            raise InputError(
                f"recipe {recipe.name!r} is for {recipe.image_size}-pixel images and these are {sides[0]} x {sides[1]}"
                f"; give --image-size {recipe.image_size} --resize crop, or use recipe latent-dm"
            )
        codec = fit_codec(recipe.codec, train)
        preprocess = codec if isinstance(codec, Pixels) else fit_codec(PixelsConfig(), train)
        rendered = isinstance(recipe.parameterization, MosaicConfig | DiffusionConfig | GeneratorConfig)
        return cls(codec, preprocess, preprocess if rendered else codec)

    def to(self, device: torch.device) -> Spaces:
        """On a device; one codec in two roles stays one."""
        return Spaces(self.codec.to(device), self.preprocess.to(device), self.matching.to(device))


@dataclass(frozen=True)
class Start:
    """A run's first items.

    Args:
        synthetic: on the device.
        sources: the real image, or the part of one, behind each item; None where items start from noise.
        real: what the items are matched with; None where nothing is.
    """

    synthetic: Parameterization
    sources: Sources | None
    real: RealItems | None


def start(
    recipe: Recipe,
    spaces: Spaces,
    train: ImageSet,
    count: int,
    seed: int,
    device: torch.device,
    observer: Observer | None,
    progress: Progress,
) -> Start:
    """The first items, `count` codes or priors for each class.

    Everything is encoded once, unless encoding is cheap and float32 codes would be larger than the uint8 images.

    Args:
        observer: that ranks images, where the recipe starts from key samples.

    Raises:
        InputError: a class with too few images.
    """
    matched = not isinstance(recipe.objective, NoObjectiveConfig)
    held = None
    if matched or recipe.initialization in ("herding", "k-centre"):
        held = codes_to_hold(spaces.matching, train, device, progress)
    if recipe.initialization == "noise":
        sources = None
        synthetic = _noise(recipe, spaces, train.classes, count, seed)
    else:
        sources = _sources(recipe, spaces, train, count, seed, device, held, observer, progress)
        synthetic = _from_sources(recipe, spaces, sources, train.classes, held, seed)
    synthetic.to(device)
    return Start(synthetic, sources, real_items(spaces.matching, train, held, device) if matched else None)


def tiles_per_code(recipe: Recipe) -> int:
    """Items behind one code: N for a mosaic, else 1."""
    made = recipe.parameterization
    return Grid(made.grid).num_tiles if isinstance(made, MosaicConfig) else 1


def _sources(
    recipe: Recipe,
    spaces: Spaces,
    train: ImageSet,
    count: int,
    seed: int,
    device: torch.device,
    held: Tensor | None,
    observer: Observer | None,
    progress: Progress,
) -> Sources:
    wanted = count * tiles_per_code(recipe)
    draw = generator(seed, "initialization")
    if isinstance(recipe.initialization, KeySamplesConfig):
        assert observer is not None
        return key_samples(recipe.initialization, observer, train, wanted, draw, device, progress)

    def items_of(indices: Tensor) -> Tensor:
        if held is not None:
            return held[indices].float()
        return encoded(spaces.matching, Sources.of_indices(train, indices, device), Grid(1))

    indices = initial_indices(recipe.initialization, items_of, train.class_indices, wanted, draw, train.classes)
    return Sources.of_indices(train, indices, device)


def _noise(recipe: Recipe, spaces: Spaces, classes: tuple[str, ...], count: int, seed: int) -> Parameterization:
    draw, made, num_classes = generator(seed, "initialization"), recipe.parameterization, len(classes)
    if isinstance(made, GeneratorConfig):
        return GeneratorItems.initial(made, spaces.codec, spaces.preprocess, classes, count, draw)
    if isinstance(made, PriorsConfig):
        return Priors.initial(made, spaces.codec, num_classes, count, draw)
    codes = torch.randn(num_classes * count, *spaces.codec.code_shape, generator=draw)
    labels = class_major_labels(num_classes, count * tiles_per_code(recipe))
    return _parameterized(recipe, spaces, codes, labels, classes, seed)


def _from_sources(
    recipe: Recipe, spaces: Spaces, sources: Sources, classes: tuple[str, ...], held: Tensor | None, seed: int
) -> Parameterization:
    made = recipe.parameterization
    if isinstance(made, MosaicConfig):
        codes = encoded(spaces.codec, sources, Grid(made.grid))
    elif held is not None and sources.boxes is None and spaces.matching is spaces.codec:
        codes = held[sources.indices].float()
    else:
        codes = encoded(spaces.codec, sources, Grid(1))
    return _parameterized(recipe, spaces, codes, sources.labels, classes, seed)


def _parameterized(
    recipe: Recipe, spaces: Spaces, codes: Tensor, labels: Tensor, classes: tuple[str, ...], seed: int
) -> Parameterization:
    made = recipe.parameterization
    assert not isinstance(made, PriorsConfig | GeneratorConfig)
    if isinstance(made, DiffusionConfig):
        noise = generator(seed, "diffusion noise").initial_seed()
        codec = spaces.codec
        if not isinstance(codec, DiffusionCodec):
            raise InputError(NO_MODEL)
        numbers = codec.class_numbers([classes[label] for label in labels.tolist()])
        return Diffusion(codec, codes, labels, made, noise, preprocess=spaces.preprocess, classes=numbers)
    if isinstance(made, MosaicConfig):
        return Mosaic(spaces.codec, codes, labels, made.storage, preprocess=spaces.preprocess, grid=made.grid)
    return Codes(spaces.codec, codes, labels, made.storage)
