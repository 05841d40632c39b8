"""Codes with a frozen diffusion model of them: what LD3M's items are rendered through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import cache_directory
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import Autoencoder
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.frozen import FrozenModelConfig
from attar.models.codecs.plain import restore_plain
from attar.models.codecs.restoring import CodecSpec, PublicFile, nameable, parse_spec
from attar.models.codecs.weights import read_folder as read_autoencoder
from attar.models.codecs.weights import require_file
from attar.models.diffusion.model import DiffusionModel, OwnModel, OwnSpec
from attar.models.diffusion.pretrained import PretrainedModel, PretrainedSpec, find_folder
from attar.models.diffusion.priors import CODEC, MODEL, ROOM, read_prior, with_prefix, without_prefix
from attar.models.networks.denoiser import build_denoiser


class DiffusionCodecConfig(FrozenModelConfig):
    """A frozen latent diffusion model: `path` is a prior's file or a folder in diffusers' layout.

    Args:
        random_seed: of random values in place of the model's (LD3M Table 3); None for the trained ones.
    """

    kind: Literal["diffusion"] = "diffusion"
    names = ("diffusion",)
    model = "diffusion"
    example = "diffusion:prior.safetensors or diffusion:FOLDER"
    random_seed: int | None = Field(default=None, ge=0)

    def fit(self, images: ImageSet) -> DiffusionCodec:
        if self.path is None:
            raise InputError(
                "no diffusion model is named; train one with attar train-prior DATA --out prior.safetensors and give "
                "--codec diffusion:prior.safetensors, or give --codec diffusion:FOLDER in diffusers' layout"
            )
        path = Path(self.path).expanduser()
        return self._of_prior(path, images) if path.is_file() else self._of_folder(self.path, images)

    def _of_prior(self, path: Path, images: ImageSet) -> DiffusionCodec:
        prior = read_prior(path)
        model = prior.model
        if self.random_seed is not None:
            if self.public:
                raise InputError("random values are not those of a public file; set codec.public=false")
            draw = generator(self.random_seed, "random denoiser")
            network = build_denoiser(model.denoiser.config, model.code_shape, model.num_classes, draw)
            model = OwnModel(network, model.schedule)
        if prior.codec.image_shape != images.image_shape:
            raise InputError(
                f"the prior is of images {prior.codec.image_shape} and these are {images.image_shape}; resize them, or "
                "train another"
            )
        classes = self.model_classes("model", images, prior.manifest.classes, model.num_classes)
        return DiffusionCodec(prior.codec, model, classes, nameable(prior.weights) if self.public else None)

    def _of_folder(self, path: str, images: ImageSet) -> DiffusionCodec:
        if self.public:
            raise InputError("a folder of diffusers is public already; leave out codec.public")
        folder, place = find_folder(path, self.random_seed)
        inner = Autoencoder(images.image_shape, read_autoencoder(place, folder.weights.id))
        model = PretrainedModel(folder, inner.code_shape, self.random_seed)
        return DiffusionCodec(inner, model, self.model_classes("model", images, (), model.num_classes))


class DiffusionCodecSpec(CodecSpec):
    """What a file says of a diffusion codec: its inner codec, its model, and where a public prior's values are."""

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
    carries_model = True

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
        """Raise InputError for a class that the model has not; the null class counts as none."""
        for number in (int(numbers.min()), int(numbers.max())):
            if not 0 <= number < self.model.num_classes:
                raise InputError(f"class {number} was asked for; the model has 0 to {self.model.num_classes - 1}")

    def spec(self) -> dict[str, Any]:
        public = self.public and self.public.model_dump(mode="json")
        described = {"codec": self.inner.spec(), "model": self.model.spec(), "public": public}
        return {"kind": self.kind, "image_shape": list(self.image_shape), **described}

    def stored_tensors(self) -> dict[str, Tensor]:
        """The inner codec's and the model's; nothing where the prior's file is public."""
        if self.public is not None:
            return {}
        return with_prefix(CODEC, self.inner.stored_tensors()) | with_prefix(MODEL, self.model.stored_tensors())

    def external(self) -> ExternalWeights | None:
        """All that is needed beside the file; of several, `sha256` is that of their sha256 one after another."""
        parts = (self.public or self.model.external(), self.inner.external())
        weights = [part for part in parts if part is not None]
        if len(weights) < 2:
            return weights[0] if weights else None
        return ExternalWeights(
            id=" + ".join(dict.fromkeys(part.id for part in weights)),
            sha256=sha256("".join(part.sha256 for part in weights).encode()).hexdigest(),
            num_bytes=sum(part.num_bytes for part in weights),
            num_values=sum(part.num_values for part in weights),
        )

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> DiffusionCodec:
        parsed = parse_spec(DiffusionCodecSpec, spec)
        if parsed.codec.get("image_shape") != list(parsed.image_shape):
            raise InputError("a diffusion codec and its inner codec do not fit together; the file is damaged")
        if parsed.model.kind == "own" and parsed.public is not None:
            if tensors:
                raise InputError("a file with a public prior has tensors of it; the file is damaged")
            trained_here = sorted(cache_directory(ROOM).glob("*.safetensors"))
            prior = read_prior(require_file("prior", parsed.public, trained_here))
            return cls(prior.codec, prior.model, public=parsed.public)
        inner = restore_plain(parsed.codec, without_prefix(CODEC, tensors))
        model_tensors = without_prefix(MODEL, tensors)
        if len(model_tensors) + len(inner.stored_tensors()) != len(tensors):
            raise InputError("a diffusion codec has tensors of neither model nor inner codec; the file is damaged")
        if parsed.model.kind == "own":
            return cls(inner, OwnModel.restore(parsed.model, inner.code_shape, model_tensors))
        if model_tensors or parsed.public is not None:
            raise InputError("a public model's tensors are in the file; the file is damaged")
        return cls(inner, PretrainedModel.restore(parsed.model, inner.code_shape))


def with_model(codec: Codec) -> DiffusionCodec:
    """The codec itself, where it has a diffusion model. Raises InputError where it has none."""
    if not isinstance(codec, DiffusionCodec):
        raise InputError("items of a diffusion model need codec 'diffusion'; write --codec diffusion:MODEL")
    return codec
