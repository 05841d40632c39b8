"""Generator: learned w, and a learned map from inside the generator, rendered by a frozen generator (GLaD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.device import Calling, saved_bytes_per_item
from attar.base.errors import InputError
from attar.base.shapes import Float, Labels
from attar.methods.labels.hard import class_major_labels
from attar.methods.parameterizations.decoders import DecoderStorage
from attar.methods.parameterizations.parameterization import (
    DTYPE_OF,
    ItemSpec,
    Material,
    Table,
    given_preprocess,
    stored_values,
)
from attar.methods.parameterizations.rendered import VALUE_BYTES, Rendered, RenderedConfig
from attar.models.codecs.codec import Codec
from attar.models.codecs.restoring import Side
from attar.models.diffusion.sampling import recomputed
from attar.models.generators.codec import GeneratorCodec, with_generator

FEATURES = "features"
MEAN_NOISES = 1000
"""As many as the official code averages w over."""


class GeneratorConfig(RenderedConfig):
    """One w per item, and with a depth one map from inside the generator of codec "generator".

    Args:
        depth: n of the learned map f_n, in place of which the generator's layers 1 to n are not run; 0 learns w alone.
        storage: of w and f.
        start: w of "random" noise, or the "mean" over 1000 noises, of the item's class; f_n is what the generator
            makes of it.

    Source: GLaD (Cazenavette et al. 2023) section 3; the official code's `avg_w` and `sg_batch`.
    """

    model: ClassVar[str | None] = "generator"
    starts: ClassVar[tuple[str, ...]] = ("noise",)

    kind: Literal["generator"] = "generator"
    depth: int = Field(default=0, ge=0, le=1000)
    storage: DecoderStorage = "float16"
    start: Literal["random", "mean"] = "random"
    chunk_items: int = Field(default=10, ge=1)

    @property
    def optimizers(self) -> Mapping[str, str]:
        return {FEATURES: "feature_optimizer"} if self.depth else {}

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        """As of the base. Raises InputError where the generator has no such layer."""
        return _spec(self, _feature_shape(codec, self.depth))

    def initial(self, material: Material) -> GeneratorItems:
        spaces, classes = material.spaces, material.train.classes
        return GeneratorItems.initial(self, spaces.codec, spaces.preprocess, classes, material.count, material.draw)


class GeneratorSpec(ItemSpec):
    """What a file says of its items: some of the settings, and the shape (c, h, w) of f_n, None with depth 0."""

    kind: Literal["generator"] = "generator"
    depth: int = Field(default=0, ge=0, le=1000)
    storage: DecoderStorage = "float16"
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
    spec_type = GeneratorSpec
    features: Tensor | None

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "items c h w"],
        labels: Labels,
        config: GeneratorConfig,
        *,
        preprocess: Codec,
        features: Float[Tensor, "items e s t"] | None = None,
    ) -> None:
        super().__init__(labels)
        expected, shape = _feature_shape(codec, config.depth), None if features is None else tuple(features.shape[1:])
        if shape != expected:
            raise InputError(f"features are {shape}; the generator's of layer {config.depth} are {expected}")
        self.codec, self.config, self.preprocess = codec, config, preprocess
        self.chunk_items, self.precision = config.chunk_items, config.precision
        self.codes = nn.Parameter(codes.detach().clone().float())
        self.register_parameter(FEATURES, None if features is None else nn.Parameter(features.detach().clone().float()))

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

        Raises:
            InputError: as of the class; a start that is not finite.

        Source: the official code, `prepare_latents`.
        """
        source, labels = with_generator(codec), class_major_labels(len(classes), num_per_class)
        names = [classes[label] for label in labels.tolist()]
        codes, features = source.drawn(names, draw, MEAN_NOISES if config.start == "mean" else 1), None
        if config.depth:
            features = torch.cat([source.features(chunk, config.depth) for chunk in codes.split(config.chunk_items)])
        if not all(bool(value.isfinite().all()) for value in (codes, features) if value is not None):
            raise InputError("the generator's w or features are not finite; take another depth or other weights")
        return cls(codec, codes, labels, config, preprocess=preprocess, features=features)

    def rendering_bytes(self, samples: int = 1) -> dict[str, int]:
        """Bytes at the peak of a step's rendering, with its gradient, and of the frozen weights.

        Activations exist for one chunk at a time; of every item there is the image, its network input and a gradient.
        """
        shape = _feature_shape(self.codec, self.config.depth)

        def rendered(codec: GeneratorCodec, codes: Tensor) -> Tensor:
            return codec.render(
                codes, None if shape is None else codes.new_zeros(len(codes), *shape), self.config.depth
            )

        activations = saved_bytes_per_item(Calling(self.codec, rendered), self.codec.code_shape)
        images = 3 * VALUE_BYTES * len(self) * self.codec.num_image_values
        return {"rendering": int(min(self.chunk_items, len(self)) * activations + images + self.weight_bytes())}

    def item_payload(self) -> dict[str, Tensor]:
        stored = {"codes": self.codes, FEATURES: self.features}
        return {name: stored_values(value, self.config.storage) for name, value in stored.items() if value is not None}

    def item_spec(self) -> dict[str, Any]:
        return _spec(self.config, None if self.features is None else tuple(self.features.shape[1:]))

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        shapes = {"codes": code_shape} | ({} if spec.feature_shape is None else {FEATURES: spec.feature_shape})
        return {name: (DTYPE_OF[spec.storage], (num_items, *shape)) for name, shape in shapes.items()}

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> GeneratorItems:
        config, features = GeneratorConfig(depth=spec.depth, storage=spec.storage), payload.get(FEATURES)
        codes, labels = payload["codes"].float(), payload["labels"].long()
        inputs = given_preprocess(preprocess, cls.kind)
        features = None if features is None else features.float()
        return GeneratorItems(codec, codes, labels, config, preprocess=inputs, features=features)

    def _chunk(self, items: Tensor) -> Tensor:
        codec, depth = with_generator(self.codec), self.config.depth
        learned = [value[items] for value in (self.codes, self.features) if value is not None]

        def render(codes: Tensor, features: Tensor | None = None) -> Tensor:
            return codec.render(codes, features, depth)

        if torch.is_grad_enabled():
            images: Tensor = recomputed(render, *learned)
            return images
        return render(*learned)


def _feature_shape(codec: Codec, depth: int) -> tuple[int, int, int] | None:
    source = with_generator(codec)
    return source.feature_shape(depth) if depth else None


def _spec(config: GeneratorConfig, feature_shape: tuple[int, ...] | None) -> dict[str, Any]:
    return GeneratorSpec(depth=config.depth, storage=config.storage, feature_shape=feature_shape).facts  # type: ignore[arg-type]
