"""Codes with a frozen diffusion model of them: what LD3M's items are rendered through."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import Autoencoder
from attar.models.codecs.codec import Codec, ExternalWeights, RestoreCodec
from attar.models.codecs.diffusion import DiffusionCodecConfig
from attar.models.codecs.model_classes import model_classes
from attar.models.codecs.restoring import CodecSpec, PublicFile, nameable, parse_spec
from attar.models.codecs.weights import read_folder as read_autoencoder
from attar.models.diffusion.model import DiffusionModel, OwnModel, OwnSpec
from attar.models.diffusion.pretrained import PretrainedModel, PretrainedSpec, find_folder
from attar.models.diffusion.priors import CODEC, MODEL, read_prior, require_prior, without_prefix
from attar.models.networks.denoiser import build_denoiser


class DiffusionCodecSpec(CodecSpec):
    """What a file says: the inner codec, the model, and where the prior is."""

    kind: Literal["diffusion"] = "diffusion"
    codec: dict[str, Any]
    model: Annotated[OwnSpec | PretrainedSpec, Field(discriminator="kind")]
    public: PublicFile | None = None


class DiffusionCodec(Codec):
    """An inner codec's codes, with a model that makes others of them; encoding and decoding are the inner codec's.

    Args:
        inner: images <-> codes.
        model: of these codes.
        classes: class of the model by name of the data's; needed to start items, not to render them.
        public: the prior's file where it stays outside; None embeds what is not public.

    Raises:
        InputError: a model of other codes, or without one of the classes.
    """

    kind = "diffusion"

    def __init__(
        self,
        inner: Codec,
        model: DiffusionModel,
        classes: Mapping[str, int] | None = None,
        public: ExternalWeights | None = None,
    ) -> None:
        super().__init__()
        if model.code_shape != inner.code_shape:
            raise InputError(f"the model is of codes {model.code_shape} and its codec's are {inner.code_shape}")
        self.inner, self.model, self.classes, self.public = inner, model, dict(classes or {}), public
        if self.classes:
            self.require_classes(torch.tensor(list(self.classes.values())))
        self.image_shape, self.code_shape = inner.image_shape, inner.code_shape
        self.cheap = inner.cheap

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        return self.inner.encode(images)

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        return self.inner.decode(codes)

    def class_numbers(self, names: Sequence[str]) -> Int64[Tensor, " items"]:
        """The model's classes of items whose classes in the data have these names."""
        return torch.tensor([self.classes[name] for name in names])

    @torch.no_grad()
    def conditioning(self, numbers: Int64[Tensor, " items"]) -> Float[Tensor, "items d"]:
        """The model's embedding of its own classes `numbers`. Raises InputError where it has no such class."""
        self.require_classes(numbers)
        return self.model.embed(numbers).clone()

    def require_classes(self, numbers: Int64[Tensor, " items"]) -> None:
        """Raise InputError for a class that the model has not."""
        wrong = [number for number in (int(numbers.min()), int(numbers.max())) if not 0 <= number < self.num_classes]
        if wrong:
            raise InputError(f"class {wrong[0]} was asked for; the model has 0 to {self.num_classes - 1}")

    @property
    def num_classes(self) -> int:
        """Of the model, without the null class."""
        return self.model.num_classes

    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "image_shape": list(self.image_shape),
            "codec": self.inner.spec(),
            "model": self.model.spec(),
            "public": self.public and self.public.model_dump(mode="json"),
        }

    def stored_tensors(self) -> dict[str, Tensor]:
        """The inner codec's and the model's; nothing where the prior's file is public."""
        if self.public is not None:
            return {}
        tensors = {CODEC + name: value for name, value in self.inner.stored_tensors().items()}
        return tensors | {MODEL + name: value for name, value in self.model.stored_tensors().items()}

    def external(self) -> ExternalWeights | None:
        """All that is needed beside the file; of several, `sha256` is that of their sha256 one after another."""
        parts = (self.public or self.model.external(), self.inner.external())
        found = [part for part in parts if part is not None]
        if len(found) < 2:
            return found[0] if found else None
        digest = hashlib.sha256("".join(part.sha256 for part in found).encode()).hexdigest()
        names = dict.fromkeys(part.id for part in found)
        return ExternalWeights(
            id=" + ".join(names),
            sha256=digest,
            num_bytes=sum(part.num_bytes for part in found),
            num_values=sum(part.num_values for part in found),
        )


def fit_diffusion(config: DiffusionCodecConfig, images: ImageSet, restore: RestoreCodec) -> DiffusionCodec:
    """The model that the config names, for these images and classes.

    Raises:
        InputError: no model is named or found, or it is not of these images or classes.
    """
    if config.path is None:
        raise InputError(
            "no diffusion model is named; train one with attar train-prior DATA --out prior.safetensors and give "
            "--codec diffusion:prior.safetensors, or give --codec diffusion:FOLDER in diffusers' layout"
        )
    path = Path(config.path).expanduser()
    if not path.is_file():
        return _fit_folder(config, images)
    prior = read_prior(path, restore)
    model = prior.model
    if config.random_seed is not None:
        draw = generator(config.random_seed, "random denoiser")
        network = build_denoiser(model.denoiser.config, model.code_shape, model.num_classes, draw)
        model = OwnModel(network, model.schedule)
        if config.public:
            raise InputError("random values are not those of a public file; set codec.public=false")
    if prior.codec.image_shape != images.image_shape:
        raise InputError(
            f"the prior is of images {prior.codec.image_shape} and these are {images.image_shape}; resize them, or "
            "train another"
        )
    classes = model_classes("model", config.classes, images, prior.manifest.classes, model.num_classes)
    return DiffusionCodec(prior.codec, model, classes, nameable(prior.weights) if config.public else None)


def restore_diffusion(spec: dict[str, Any], tensors: dict[str, Tensor], restore: RestoreCodec) -> DiffusionCodec:
    """Rebuild from `spec` and `stored_tensors`, with outside weights found on this machine.

    Args:
        spec: the codec's own.
        tensors: those that the file embeds.
        restore: of the inner codec.

    Raises:
        InputError: a damaged description, or weights that are absent (says which).
    """
    parsed = parse_spec(DiffusionCodecSpec, spec)
    if parsed.codec.get("kind") == "diffusion" or parsed.codec.get("image_shape") != list(parsed.image_shape):
        raise InputError("a diffusion codec and its inner codec do not fit together; the file is damaged")
    if isinstance(parsed.model, OwnSpec) and parsed.public is not None:
        if tensors:
            raise InputError("a file with a public prior has tensors of it; the file is damaged")
        weights = ExternalWeights(**parsed.public.model_dump())
        prior = require_prior(weights, restore)
        return DiffusionCodec(prior.codec, prior.model, public=weights)
    inner = restore(parsed.codec, without_prefix(tensors, CODEC))
    own = without_prefix(tensors, MODEL)
    if len(own) + len(inner.stored_tensors()) != len(tensors):
        raise InputError("a diffusion codec has tensors of neither model nor inner codec; the file is damaged")
    if isinstance(parsed.model, OwnSpec):
        return DiffusionCodec(inner, OwnModel.restore(parsed.model, inner.code_shape, own))
    if own or parsed.public is not None:
        raise InputError("a public model's tensors are in the file; the file is damaged")
    return DiffusionCodec(inner, PretrainedModel.restore(parsed.model, inner.code_shape)[0])


def _fit_folder(config: DiffusionCodecConfig, images: ImageSet) -> DiffusionCodec:
    assert config.path is not None
    if config.public:
        raise InputError("a folder of diffusers is public already; leave out codec.public")
    folder, place = find_folder(config.path, config.random_seed)
    inner = Autoencoder(images.image_shape, read_autoencoder(place, folder.weights.id))
    model = PretrainedModel(folder, inner.code_shape, config.random_seed)
    return DiffusionCodec(inner, model, model_classes("model", config.classes, images, (), model.num_classes))
