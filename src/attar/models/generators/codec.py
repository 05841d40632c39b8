"""A frozen generator as a codec: w to images, with or without a map from inside the generator."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.generator import Arguments, GeneratorCodecConfig, ImportPath
from attar.models.codecs.model_classes import model_classes
from attar.models.codecs.restoring import CodecSpec, PublicFile, nameable, parse_spec, take_tensors
from attar.models.generators.generator import Generator, imported, require_named
from attar.models.generators.weights import (
    OwnSpec,
    own_spec,
    own_tensors,
    read_generator,
    read_state,
    require_file,
    restore_own,
)


class ModuleSpec(Config):
    """A generator whose code is not attar's: what it is called, and with which keywords it was made."""

    kind: Literal["module"] = "module"
    module: ImportPath
    arguments: Arguments = Field(default={}, max_length=32)


class GeneratorCodecSpec(CodecSpec):
    """What a file says: whose code the generator is, its sizes, and where its values are if not in the file."""

    kind: Literal["generator"] = "generator"
    generator: Annotated[OwnSpec | ModuleSpec, Field(discriminator="kind")]
    public: PublicFile | None = None


class GeneratorCodec(Codec):
    """A frozen generator; a code is w, [d, 1, 1] or [m, d, 1].

    Args:
        network: as `Generator` says, a torch module without trainable values.
        spec: whose code it is.
        public: its file where it stays outside; None embeds one of attar's own.
        classes: class of the generator by name of the data's; needed to start items, not to render them.

    Raises:
        InputError: it lacks one of the classes.
    """

    kind = "generator"
    cheap = True

    def __init__(
        self,
        network: Any,
        spec: OwnSpec | ModuleSpec,
        public: ExternalWeights | None = None,
        classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.public, self.classes = network, public, dict(classes or {})
        self._spec = spec
        self.image_shape = network.image_shape
        self.latent_shape: tuple[int, ...] = network.latent_shape
        self.code_shape = (*self.latent_shape, 1, 1)[:3]
        if self.classes and network.num_classes and max(self.classes.values()) >= network.num_classes:
            raise InputError(
                f"class {max(self.classes.values())} was asked for; the generator has 0 to {network.num_classes - 1}"
            )

    @property
    def generator(self) -> Generator:
        """The network."""
        found: Generator = self.network
        return found

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        """No generator has an encoder. Raises InputError."""
        raise InputError("a generator makes images and encodes none; start from initialization=noise")

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        return self.render(codes, None, 0)

    def render(self, codes: Float[Tensor, "items c h w"], features: Tensor | None, depth: int) -> Tensor:
        """Images of w, or of w and f_n with n = depth, which the generator may change in place: they are copies.

        Raises:
            InputError: the generator's images are not of its `image_shape`.
        """
        latents = codes.clone().reshape(len(codes), *self.latent_shape)
        made: Tensor = self.network(latents) if features is None else self.network(latents, features.clone(), depth)
        if tuple(made.shape[1:]) != self.image_shape:
            raise InputError(f"the generator's images are {tuple(made.shape[1:])} and it says {self.image_shape}")
        return made

    @torch.no_grad()
    def features(self, codes: Float[Tensor, "items c h w"], depth: int) -> Float[Tensor, "items e s t"]:
        """f_n of w, n = depth. Raises InputError where there is no such n, or it is not a map."""
        if depth > self.generator.num_layers:
            raise InputError(
                f"depth {depth} was asked for, and the generator has {self.generator.num_layers} layers; set "
                "parameterization.depth, or 0 and feature_optimizer=null for w alone"
            )
        found = self.generator.features(codes.reshape(len(codes), *self.latent_shape), depth)
        if found.ndim != 4:
            raise InputError(f"the generator's features of layer {depth} are {tuple(found.shape)}; a map is needed")
        return found.float()

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """(c, h, w) of f_n, n = depth. Raises InputError as `features`."""
        like = self._placed()
        _, channels, height, width = self.features(like.new_zeros(1, *self.code_shape), depth).shape
        return channels, height, width

    @torch.no_grad()
    def drawn(self, names: Sequence[str], draw: torch.Generator, num_noises: int = 1) -> Float[Tensor, "items c h w"]:
        """For each name of a class, w of noise from N(0, I), or the mean of several."""
        device = self._placed().device
        found = []
        for number in (self.classes.get(name, 0) for name in names):
            noise = torch.randn(num_noises, self.generator.noise_size, generator=draw).to(device)
            classes = torch.full((num_noises,), number, device=device)
            found.append(self.generator.mapping(noise, classes).float().mean(0))
        return torch.stack(found).reshape(len(names), *self.code_shape)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "image_shape": list(self.image_shape),
            "generator": self._spec.model_dump(mode="json"),
            "public": self.public and self.public.model_dump(mode="json"),
        }

    def stored_tensors(self) -> dict[str, Tensor]:
        """The values of a generator of attar's own; nothing where its file is outside."""
        return own_tensors(self.network) if self.public is None else {}

    def external(self) -> ExternalWeights | None:
        return self.public

    def _placed(self) -> Tensor:
        """A value of the network's type and device, whether it has parameters or buffers alone."""
        values = itertools.chain(self.network.parameters(), self.network.buffers())
        return next((value for value in values if value.is_floating_point()), torch.zeros(()))


def fit_generator(config: GeneratorCodecConfig, images: ImageSet) -> GeneratorCodec:
    """The generator that the config names, for these images and classes.

    Raises:
        InputError: no generator is named or found, or it is not of these images or classes.
    """
    if config.path is None:
        raise InputError(
            "no generator is named; give --codec generator:FILE with the weights of one of attar's own, and with those "
            "of another also --set codec.module=package.module:Name"
        )
    path, names = Path(config.path).expanduser(), tuple[str, ...]()
    if config.module is None:
        if config.arguments:
            raise InputError("codec.arguments have no effect without codec.module; leave them out")
        own = read_generator(path)
        network, names, spec, weights = own.network, own.classes, own_spec(own.network), own.weights
        public = weights if config.public else None
    else:
        if config.public:
            raise InputError("a generator of others is public already; leave out codec.public")
        state, public = read_state(path)
        network = imported(config.module, config.arguments, state)  # type: ignore[assignment]
        spec = ModuleSpec(module=config.module, arguments=config.arguments)  # type: ignore[assignment]
    if tuple(network.image_shape) != images.image_shape:
        raise InputError(
            f"the generator makes images {network.image_shape} and these are {images.image_shape}; resize them, or "
            "take another"
        )
    known = config.classes is not None or network.num_classes
    classes = model_classes("generator", config.classes, images, names, network.num_classes) if known else {}
    return GeneratorCodec(network, spec, public and nameable(public), classes)


def restore_generator(spec: dict[str, Any], tensors: dict[str, Tensor]) -> GeneratorCodec:
    """Rebuild from `spec` and `stored_tensors`, with outside weights found on this machine.

    Code of others is run only where a user has named it, and with the values of the file that it was saved with.

    Raises:
        InputError: a damaged description, code that nobody has named, or weights that are absent (says which).
    """
    parsed = parse_spec(GeneratorCodecSpec, spec)
    weights = None if parsed.public is None else ExternalWeights(**parsed.public.model_dump())
    network: Any
    if isinstance(parsed.generator, OwnSpec) and weights is None:
        network = restore_own(parsed.generator, parsed.image_shape, tensors)
        return GeneratorCodec(network, parsed.generator)
    take_tensors(tensors, {})
    if weights is None:
        raise InputError("a generator of others has no file that it is named by; the file is damaged")
    if isinstance(parsed.generator, OwnSpec):
        network = read_generator(require_file(weights)).network
        same = own_spec(network) == parsed.generator
    else:
        require_named(parsed.generator.module)
        state, _ = read_state(require_file(weights))
        network, same = imported(parsed.generator.module, parsed.generator.arguments, state), True
    if not same or tuple(network.image_shape) != parsed.image_shape:
        raise InputError(f"the generator {weights.id!r} is not the one that the description is of; the file is damaged")
    return GeneratorCodec(network, parsed.generator, weights)
