"""Generator: learned w, and a learned map from inside the generator, rendered by a frozen generator (GLaD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.base.footprint import saved_bytes_per_item
from attar.base.shapes import Float, Int64
from attar.methods.labels.hard import class_major_labels
from attar.methods.parameterizations.codes import to_float16
from attar.methods.parameterizations.decoders import DecoderStorage
from attar.methods.parameterizations.rendered import Rendered, RenderingPrecision, given_preprocess
from attar.models.codecs.codec import Codec
from attar.models.codecs.restoring import Side
from attar.models.diffusion.checkpointing import recomputed
from attar.models.generators.codec import GeneratorCodec

FEATURES = "features"
MEAN_NOISES = 1000
"""As many as the official code averages w over."""


class _Stored(Config):
    kind: Literal["generator"] = "generator"
    depth: int = Field(default=0, ge=0, le=1000)
    storage: DecoderStorage = "float16"


class GeneratorConfig(_Stored):
    """One w per item, and with a depth one map from inside the generator of codec "generator".

    Args:
        depth: n of the learned map f_n, in place of which the generator's layers 1 to n are not run; 0 learns w alone.
        storage: of w and f.
        start: w of "random" noise, or the "mean" over 1000 noises, of the item's class; f_n is what the generator
            makes of it.
        chunk_items: the most items that go through the generator at once.
        precision: of the generator while items are learned; the images of the file are rendered in float32.

    Source: GLaD (Cazenavette et al. 2023) section 3; the official code's `avg_w` and `sg_batch`.
    """

    start: Literal["random", "mean"] = "random"
    chunk_items: int = Field(default=10, ge=1)
    precision: RenderingPrecision = "float32"

    def spec(self, codec: Codec) -> dict[str, Any]:
        """What a file will say of such items. Raises InputError where the generator has no such layer."""
        return _spec(self, _feature_shape(codec, self.depth))


class GeneratorSpec(_Stored):
    """What a file says of its items.

    Args:
        feature_shape: (c, h, w) of f_n; None with depth 0.
    """

    feature_shape: tuple[Side, Side, Side] | None = None

    @model_validator(mode="after")
    def _features_belong_to_a_depth(self) -> GeneratorSpec:
        if (self.depth == 0) != (self.feature_shape is None):
            raise ValueError(f"features of {self.feature_shape} and depth {self.depth} do not fit together")
        return self


class GeneratorItems(Rendered):
    """M learned w, and with a depth n M learned maps f, which a frozen generator turns into images.

        images(i) = G(w_i),  or  G_{>n}(w_i, f_i);      forward(i) = preprocess(images(i))

    Memory: the generator's activations are made again in the backward pass, one chunk at a time, so that what a step
    takes beside w, f and the images does not grow with the items.

    Args:
        codec: with the generator.
        codes: float32 [M, *codec.code_shape], the starting point of w.
        labels: int64 [M], class-major.
        config: depth, storage, chunks.
        preprocess: images to network inputs.
        features: float32 [M, e, s, t], of f; None with depth 0.

    Raises:
        InputError: a codec without a generator, or features of another shape than the generator's.

    Source: GLaD, Eq. 2 and section 3.2; the recomputed rendering is its section 3.3.
    Deviation: f is not cut to [-10, 10] at the start, as the official code does for values that overflow in half
        precision; rendering is in float32 unless asked otherwise.
    """

    kind = "generator"
    features: Tensor | None

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "items c h w"],
        labels: Int64[Tensor, " items"],
        config: GeneratorConfig,
        *,
        preprocess: Codec,
        features: Float[Tensor, "items e s t"] | None = None,
    ) -> None:
        super().__init__()
        shape = _feature_shape(codec, config.depth)
        assert isinstance(codec, GeneratorCodec)
        if shape != (None if features is None else tuple(features.shape[1:])):
            told = None if features is None else tuple(features.shape[1:])
            raise InputError(f"features are {told}; the generator's of layer {config.depth} are {shape}")
        self.codec, self.config, self.preprocess = codec, config, preprocess
        self.chunk_items, self.precision = config.chunk_items, config.precision
        self.codes = nn.Parameter(codes.detach().clone().float())
        self.register_parameter(FEATURES, None if features is None else nn.Parameter(features.detach().clone().float()))
        self.register_buffer("labels", labels.clone())

    @classmethod
    def initial(
        cls,
        config: GeneratorConfig,
        codec: Codec,
        preprocess: Codec,
        classes: Sequence[str],
        num_per_class: int,
        draw: torch.Generator,
    ) -> GeneratorItems:
        """The first items.

            w = M(z, y),  z ~ N(0, I),  or the mean of 1000;      f_n = G_{<=n}(w)

        Args:
            config: what to make.
            codec: with the generator.
            preprocess: images to network inputs.
            classes: names, in the order of the labels.
            num_per_class: items of each class.
            draw: source of z.

        Raises:
            InputError: as of the class; a start that is not finite.

        Source: the official code, `prepare_latents`.
        """
        if not isinstance(codec, GeneratorCodec):
            raise InputError(_NO_GENERATOR)
        labels = class_major_labels(len(classes), num_per_class)
        names = [classes[label] for label in labels.tolist()]
        codes = codec.drawn(names, draw, MEAN_NOISES if config.start == "mean" else 1)
        features = None
        if config.depth:
            features = torch.cat([codec.features(chunk, config.depth) for chunk in codes.split(config.chunk_items)])
        if not all(bool(value.isfinite().all()) for value in (codes, features) if value is not None):
            raise InputError("the generator's w or features are not finite; take another depth or other weights")
        return cls(codec, codes, labels, config, preprocess=preprocess, features=features)

    def payload(self) -> dict[str, Tensor]:
        kept = {"codes": self.codes, FEATURES: self.features}
        tensors = {
            name: to_float16(value.detach().cpu()) if self.config.storage == "float16" else value.detach().cpu().float()
            for name, value in kept.items()
            if value is not None
        }
        return tensors | {"labels": self.labels.cpu().to(torch.int32)}

    def spec(self) -> dict[str, Any]:
        return _spec(self.config, None if self.features is None else tuple(self.features.shape[1:]))

    @classmethod
    def restore(
        cls, codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any], preprocess: Codec | None = None
    ) -> GeneratorItems:
        """Rebuild from what `payload` and `spec` gave.

        Raises:
            ValueError: no `preprocess`.
            InputError: a codec that is not the items'.
        """
        told = parse_config(GeneratorSpec, canonical_json(spec), "parameterization 'generator'")
        config, features = GeneratorConfig(depth=told.depth, storage=told.storage), payload.get(FEATURES)
        return cls(
            codec,
            payload["codes"].float(),
            payload["labels"].long(),
            config,
            preprocess=given_preprocess(preprocess, cls.kind),
            features=None if features is None else features.float(),
        )

    def _chunk(self, items: Tensor) -> Tensor:
        codec, depth = self.codec, self.config.depth
        assert isinstance(codec, GeneratorCodec)
        learned = [value[items] for value in (self.codes, self.features) if value is not None]

        def render(codes: Tensor, features: Tensor | None = None) -> Tensor:
            return codec.render(codes, features, depth)

        if torch.is_grad_enabled():
            made: Tensor = recomputed(render, *learned)
            return made
        return render(*learned)


_NO_GENERATOR = "items of a generator need codec 'generator'; write --codec generator:FILE"


def _feature_shape(codec: Codec, depth: int) -> tuple[int, int, int] | None:
    if not isinstance(codec, GeneratorCodec):
        raise InputError(_NO_GENERATOR)
    return codec.feature_shape(depth) if depth else None


def _spec(config: _Stored, feature_shape: tuple[int, ...] | None) -> dict[str, Any]:
    spec = GeneratorSpec(depth=config.depth, storage=config.storage, feature_shape=feature_shape)  # type: ignore[arg-type]
    return spec.model_dump(mode="json")


VALUE_BYTES = 4


def generating_bytes(items: GeneratorItems) -> int:
    """Bytes at the peak of a step's rendering, with its gradient, and of the frozen weights.

    Activations exist for one chunk at a time; of every item there is the image, its network input and a gradient.
    """
    codec = items.codec
    assert isinstance(codec, GeneratorCodec)
    activations = min(items.chunk_items, len(items)) * saved_bytes_per_item(_Rendering(items), codec.code_shape)
    images = 3 * VALUE_BYTES * len(items) * codec.num_image_values
    weights = sum(value.numel() * value.element_size() for value in codec.parameters())
    return int(activations + images + weights)


class _Rendering(nn.Module):
    """A generator as a function of w alone; f is zero."""

    def __init__(self, items: GeneratorItems) -> None:
        super().__init__()
        assert isinstance(items.codec, GeneratorCodec)
        self.codec, self.depth = items.codec, items.config.depth
        self.shape = None if items.features is None else tuple(items.features.shape[1:])

    def forward(self, codes: Tensor) -> Tensor:
        features = None if self.shape is None else codes.new_zeros(len(codes), *self.shape)
        return self.codec.render(codes, features, self.depth)
