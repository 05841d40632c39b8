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
from attar.models.codecs.frozen import FrozenModelConfig
from attar.models.codecs.restoring import CodecSpec, PublicFile, nameable, network_tensors, parse_spec, take_tensors
from attar.models.codecs.weights import require_file
from attar.models.generators.generator import Generator, OwnSpec, imported, read_generator, read_state, require_named

_NAME = "[A-Za-z_][A-Za-z0-9_]{0,99}"

ImportPath = Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME}){{0,9}}:{_NAME}$")]
"""package.module:Name"""

Word = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{0,40}$")]
"""Too little for a path or an address: what is built may not be told to read anything."""

_Bounds = Field(ge=-(2**31), le=2**31)
Plain = bool | Annotated[int, _Bounds] | Annotated[float, _Bounds] | Word | None
Arguments = dict[Annotated[str, Field(pattern=f"^{_NAME}$")], Plain | tuple[Plain, ...]]


class GeneratorCodecConfig(FrozenModelConfig):
    """A frozen generator of images: `path` is a file of `save_generator`, or with `module` any module's state dict.

    Args:
        module: "package.module:Name" of the code of others, which is imported and called with `arguments`, and whose
            file is always public; None for attar's own generator, whose file says its sizes.
        arguments: keywords for `module`: numbers, booleans, short words, and lists of them.
    """

    kind: Literal["generator"] = "generator"
    names = ("generator",)
    model = "generator"
    example = "generator:FILE.safetensors"
    module: ImportPath | None = None
    arguments: Arguments = Field(default={}, max_length=32)

    def fit(self, images: ImageSet) -> GeneratorCodec:
        if self.path is None:
            raise InputError(
                "no generator is named; give --codec generator:FILE with the weights of one of attar's own, and with "
                "those of another also --set codec.module=package.module:Name"
            )
        codec, names = self._read(Path(self.path).expanduser())
        if codec.image_shape != images.image_shape:
            raise InputError(
                f"the generator makes images {codec.image_shape} and these are {images.image_shape}; resize them, or "
                "take another"
            )
        num_classes = codec.generator.num_classes
        if self.classes is not None or num_classes:
            codec.choose_classes(self.model_classes("generator", images, names, num_classes))
        return codec

    def _read(self, path: Path) -> tuple[GeneratorCodec, tuple[str, ...]]:
        """The generator, and the names of its classes where its file has them."""
        if self.module is None:
            if self.arguments:
                raise InputError("codec.arguments have no effect without codec.module; leave them out")
            file = read_generator(path)
            public = nameable(file.weights) if self.public else None
            return GeneratorCodec(file.network, OwnSpec.of(file.network), public), file.classes
        if self.public:
            raise InputError("a generator of others is public already; leave out codec.public")
        state, weights = read_state(path)
        network = imported(self.module, self.arguments, state)
        spec = ModuleSpec(module=self.module, arguments=self.arguments)
        return GeneratorCodec(network, spec, nameable(weights)), ()


class ModuleSpec(Config):
    """The name of a generator whose code is not attar's, and the keywords it was made with."""

    kind: Literal["module"] = "module"
    module: ImportPath
    arguments: Arguments = Field(default={}, max_length=32)


class GeneratorCodecSpec(CodecSpec):
    """What a file says of a generator: whose code it is, its sizes, and where its values are if not in the file."""

    kind: Literal["generator"] = "generator"
    generator: Annotated[OwnSpec | ModuleSpec, Field(discriminator="kind")]
    public: PublicFile | None = None


class GeneratorCodec(Codec):
    """A frozen generator; a code is w, [d, 1, 1] or [m, d, 1].

    Args:
        network: as `Generator` says, a torch module without trainable values.
        spec: whose code it is.
        public: its file where it stays outside; None embeds one of attar's own.

    Attributes:
        classes: class of the generator by name of the data's; needed to start items, not to render them.
    """

    kind = "generator"
    cheap = True
    carries_model = True

    def __init__(self, network: Any, spec: OwnSpec | ModuleSpec, public: ExternalWeights | None = None) -> None:
        super().__init__()
        self.network, self.public, self.classes = network, public, dict[str, int]()
        self.image_shape = network.image_shape
        self._spec = GeneratorCodecSpec(image_shape=self.image_shape, generator=spec, public=public)
        self.latent_shape: tuple[int, ...] = network.latent_shape
        self.code_shape = (*self.latent_shape, 1, 1)[:3]

    def choose_classes(self, classes: Mapping[str, int]) -> None:
        """Set `classes`. Raises InputError where the generator lacks one of them."""
        largest, num_classes = max(classes.values(), default=0), self.generator.num_classes
        if num_classes and largest >= num_classes:
            raise InputError(f"class {largest} was asked for; the generator has 0 to {num_classes - 1}")
        self.classes = dict(classes)

    @property
    def generator(self) -> Generator:
        network: Generator = self.network
        return network

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
        images: Tensor = self.network(latents) if features is None else self.network(latents, features.clone(), depth)
        if tuple(images.shape[1:]) != self.image_shape:
            raise InputError(f"the generator's images are {tuple(images.shape[1:])} and it says {self.image_shape}")
        return images

    @torch.no_grad()
    def features(self, codes: Float[Tensor, "items c h w"], depth: int) -> Float[Tensor, "items e s t"]:
        """The map f_n of w, n = depth. Raises InputError where there is no such n, or f_n is no map."""
        if depth > self.generator.num_layers:
            raise InputError(
                f"depth {depth} was asked for, and the generator has {self.generator.num_layers} layers; set "
                "parameterization.depth, or 0 and feature_optimizer=null for w alone"
            )
        features = self.generator.features(codes.reshape(len(codes), *self.latent_shape), depth)
        if features.ndim != 4:
            raise InputError(f"the generator's features of layer {depth} are {tuple(features.shape)}; a map is needed")
        return features.float()

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """(c, h, w) of f_n, n = depth. Raises InputError as `features`."""
        like = self._placed()
        _, channels, height, width = self.features(like.new_zeros(1, *self.code_shape), depth).shape
        return channels, height, width

    @torch.no_grad()
    def drawn(self, names: Sequence[str], draw: torch.Generator, num_noises: int = 1) -> Float[Tensor, "items c h w"]:
        """For each name of a class, w of noise from N(0, I), or the mean of several."""
        device = self._placed().device
        latents = []
        for name in names:
            noise = torch.randn(num_noises, self.generator.noise_size, generator=draw).to(device)
            classes = torch.full((num_noises,), self.classes.get(name, 0), device=device)
            latents.append(self.generator.mapping(noise, classes).float().mean(0))
        return torch.stack(latents).reshape(len(names), *self.code_shape)

    def stored_tensors(self) -> dict[str, Tensor]:
        """The values of a generator of attar's own; nothing where its file is outside."""
        return network_tensors(self.network) if self.public is None else {}

    def external(self) -> ExternalWeights | None:
        return self.public

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> GeneratorCodec:
        """As `Codec.restore`; code of others runs only where a user has named it. Raises InputError otherwise."""
        parsed = parse_spec(GeneratorCodecSpec, spec)
        described, weights = parsed.generator, parsed.public
        if described.kind == "own" and weights is None:
            return cls(described.restore(parsed.image_shape, tensors), described)
        take_tensors(tensors, {})
        if weights is None:
            raise InputError("a generator of others has no file that it is named by; the file is damaged")
        network: Any
        if described.kind == "own":
            network = read_generator(require_file("generator", weights)).network
            fits = OwnSpec.of(network) == described
        else:
            require_named(described.module)
            state, _ = read_state(require_file("generator", weights))
            network, fits = imported(described.module, described.arguments, state), True
        if not fits or tuple(network.image_shape) != parsed.image_shape:
            raise InputError(
                f"the generator {weights.id!r} is not the one that the description is of; the file is damaged"
            )
        return cls(network, described, weights)

    def _placed(self) -> Tensor:
        """A value of the network's type and device; a network may have buffers alone."""
        values = itertools.chain(self.network.parameters(), self.network.buffers())
        return next((value for value in values if value.is_floating_point()), torch.zeros(()))


def with_generator(codec: Codec) -> GeneratorCodec:
    """The codec itself, where it has a generator. Raises InputError where it has none."""
    if not isinstance(codec, GeneratorCodec):
        raise InputError("items of a generator need codec 'generator'; write --codec generator:FILE")
    return codec
