"""Priors: one Gaussian of latent vectors per item and one decoder for all; every epoch samples other images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import model_validator
from torch import Tensor, nn

from attar.base.device import saved_bytes_per_item
from attar.base.errors import InputError
from attar.base.shapes import CodeBatch, Float, Images, Indices, Labels
from attar.methods.composition import Composition, Unmet
from attar.methods.labels.hard import class_major_labels
from attar.methods.parameterizations.decoders import (
    Decoder,
    DecoderConfig,
    DecoderStorage,
    build_decoder,
    decoder_table,
    read_decoder,
    store_decoder,
    swift_decoder,
)
from attar.methods.parameterizations.parameterization import (
    DTYPE_OF,
    Draw,
    ItemSpec,
    LabelStorage,
    Material,
    Parameterization,
    ParameterizationConfig,
    Table,
    stored_values,
)
from attar.models.codecs.codec import Codec

Distribution: TypeAlias = Literal["gaussian", "fixed"]
DECODER = "decoder."
NOISE_BLOCK = 16
VALUE_BYTES = 4


class PriorsConfig(ParameterizationConfig):
    """One Gaussian prior per item, and a decoder that is stored with them.

    Args:
        decoder: its sizes.
        storage: of priors and decoder; the decoder's norms are always float32.
        distribution: "gaussian" samples; "fixed" keeps the means alone, so that every epoch sees the same images.
        initial_log_variance: of every prior at the start, -20 to 20, or "normal" for a draw from N(0, 1).

    Source: D3 section 2.2; section 3.3 and Figure 6 for fixed codes.
    """

    starts: ClassVar[tuple[str, ...]] = ("noise",)
    has_range: ClassVar[bool] = False
    has_average: ClassVar[bool] = False
    blank_start: ClassVar[bool] = True

    kind: Literal["priors"] = "priors"
    decoder: DecoderConfig = DecoderConfig()
    storage: DecoderStorage = "float32"
    distribution: Distribution = "gaussian"
    initial_log_variance: float | Literal["normal"] = 0.0

    @property
    def stochastic(self) -> bool:
        return self.distribution == "gaussian"

    @property
    def optimizers(self) -> Mapping[str, str]:
        return {DECODER: "decoder_optimizer"}

    def codes_of_images(self, codec: Codec) -> int:
        return 1

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        return PriorsSpec(decoder=self.decoder.resolved(), storage=self.storage, distribution=self.distribution).facts

    def initial(self, material: Material) -> Priors:
        codec, num_classes = material.spaces.codec, material.train.num_classes
        return Priors.initial(self, codec, num_classes, material.count, material.draw)

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        yield from super().unmet(recipe)
        optimizer = recipe.decoder_optimizer
        if optimizer is not None and optimizer.learning_rate_unit != "absolute":
            mend = "set decoder_optimizer.learning_rate_unit=absolute"
            yield Unmet("own optimizer", f"one decoder serves all items; {mend}")

    @model_validator(mode="after")
    def _initial_log_variance_fits(self) -> PriorsConfig:
        value = self.initial_log_variance
        if self.distribution == "fixed" and value != type(self).model_fields["initial_log_variance"].default:
            raise ValueError("initial_log_variance has no effect with distribution 'fixed'; leave it out")
        if value != "normal" and not -20 <= value <= 20:
            raise ValueError(f"initial_log_variance {value} is out of range; give -20 to 20, or 'normal'")
        return self


class PriorsSpec(ItemSpec):
    """What a file says of its priors."""

    kind: Literal["priors"] = "priors"
    decoder: DecoderConfig = DecoderConfig()
    storage: DecoderStorage = "float32"
    distribution: Distribution = "gaussian"


class Priors(Parameterization):
    """M Gaussian priors over latent vectors, with a decoder to the space of a codec.

        z = mean_i + exp(log_variance_i / 2) * eps,   eps ~ N(0, I),   forward(i) = decoder(z)

    In training mode the decoder's norms take their statistics from the batch and keep running ones, with which
    `images` and `mean_images` always decode: what an image looks like does not depend on what is decoded with it.

    Args:
        codec: images = codec.decode(decoder(z)); D3's is of pixels. Its `code_shape` is what the decoder makes.
        decoder: trained with the priors.
        mean: float [M, d], the starting point.
        labels: int64 [M], class-major.
        log_variance: float [M, d], the starting point; None keeps the means alone ("fixed").
        storage: how `payload` stores priors and decoder.
        soft_labels: float [M, K], logits; None for hard labels. Trainable unless `requires_grad_(False)` fixes them.
        label_storage: how `payload` stores the logits.

    Raises:
        ValueError: shapes that do not fit one another.

    Source: D3 section 2.2 and appendix B.2; diagonal covariances and log-variances as in the official code.
    Deviation: the official evaluation decodes with statistics of the batch, this one with running ones.
    """

    kind = "priors"
    spec_type = PriorsSpec

    def __init__(
        self,
        codec: Codec,
        decoder: Decoder,
        mean: Float[Tensor, "items latents"],
        labels: Labels,
        log_variance: Float[Tensor, "items latents"] | None = None,
        storage: DecoderStorage = "float32",
        soft_labels: Float[Tensor, "items classes"] | None = None,
        label_storage: LabelStorage = "float16",
    ) -> None:
        super().__init__(labels, soft_labels, label_storage)
        if decoder.image_shape != codec.code_shape:
            raise ValueError(f"a decoder of {decoder.image_shape} cannot make codes of {codec.code_shape}")
        if mean.shape != (len(labels), decoder.config.num_latents):
            raise ValueError(f"{len(labels)} priors of {decoder.config.num_latents} values have means {mean.shape}")
        self.codec, self.decoder = codec, decoder
        self.mean = nn.Parameter(mean.detach().clone().float())
        self.register_parameter("log_variance", None)
        if log_variance is not None:
            self.log_variance = nn.Parameter(log_variance.detach().clone().float())
        self.storage: DecoderStorage = storage

    @classmethod
    def initial(
        cls, config: PriorsConfig, codec: Codec, num_classes: int, num_per_class: int, generator: torch.Generator
    ) -> Priors:
        """Fresh priors, in training mode.

            mean ~ N(0, I);   log_variance = config.initial_log_variance, or ~ N(0, I)

        The generator, on the CPU, draws means, log-variances and the decoder, in this order.

        Raises:
            InputError: a decoder that is too large.

        Source: the official code, which draws both.
        Deviation: log-variances are 0 by default, so that no value starts with far more noise than another.
        """
        labels = class_major_labels(num_classes, num_per_class)
        shape = (len(labels), config.decoder.num_latents)
        mean, log_variance = torch.randn(shape, generator=generator), None
        if config.distribution == "gaussian":
            start = config.initial_log_variance
            log_variance = torch.randn(shape, generator=generator) if start == "normal" else torch.full(shape, start)
        decoder = build_decoder(config.decoder, codec.code_shape, generator)
        return cls(codec, decoder, mean, labels, log_variance, config.storage)

    @property
    def stochastic(self) -> bool:
        """True unless the means alone are kept."""
        return self.log_variance is not None

    def forward(self, items: Indices, generator: Draw = None) -> CodeBatch:
        """One sample of each item; an item that is asked for twice has two.

        One generator gives the same samples however the items are cut into calls. Raises ValueError without one.
        """
        if not self.stochastic:
            return self._decoded(self.mean[items])
        if generator is None:
            raise ValueError("priors are sampled, and there is no generator; give one, or take mean_images")
        noise = _noise(len(items), self.mean.shape[1], generator).to(self.mean)
        return self._decoded(self.mean[items] + (0.5 * self.log_variance[items]).exp() * noise)

    @torch.no_grad()
    def images(self, items: Indices, generator: Draw = None) -> Images:
        """One sample of each item, or without a generator the item's mean image."""
        return self.mean_images(items) if generator is None else self.codec.decode(self.samples(items, generator))

    @torch.no_grad()
    def means(self, items: Indices) -> CodeBatch:
        """What the decoder makes of the items' means, with running statistics."""
        with self._evaluated():
            return self._decoded(self.mean[items])

    @torch.no_grad()
    def samples(self, items: Indices, generator: torch.Generator) -> CodeBatch:
        """As `forward`, with running statistics; no gradient."""
        with self._evaluated():
            return self(items, generator)

    def latents(self, items: Indices) -> Float[Tensor, "batch latents"]:
        """The items' means."""
        return self.mean[items].detach()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch latents"]) -> Images:
        """The images of any latent vectors, with running statistics."""
        with self._evaluated():
            return self.codec.decode(self._decoded(latents))

    def with_decoder(self, decoder: Decoder) -> Priors:
        """The same priors, frozen and in memory shared with these, under another decoder."""
        other = copy(self)
        other._modules = {**self._modules, "decoder": decoder}
        other._buffers = dict(self._buffers)
        other._parameters = {
            name: None if values is None else nn.Parameter(values.detach(), requires_grad=False)
            for name, values in self._parameters.items()
        }
        return other

    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances of the decoder's norms."""
        buffers = self.decoder.named_buffers(prefix=DECODER.rstrip("."))
        return {name: buffer for name, buffer in buffers if buffer.is_floating_point()}

    @torch.no_grad()
    def mean_images(self, items: Indices) -> Images:
        """The images of the items' means, which D3's soft labels are made from.

        Source: D3 appendix E.3.
        """
        return self.codec.decode(self.means(items))

    def for_sampling(self) -> Priors:
        return self.with_decoder(swift_decoder(self.decoder))

    def sampled_inputs(self, items: Indices, draw: Draw, preprocess: Codec, lowered: bool = False) -> CodeBatch:
        """As of the base; where network inputs are the decoder's own space, the way to images and back is left out."""
        with torch.autocast(items.device.type, torch.bfloat16, enabled=lowered):
            codes = self.means(items) if draw is None else self.samples(items, draw)
        if self.codec is preprocess:
            return codes.float()
        return preprocess.encode(self.codec.decode(codes.float()))

    def rendering_bytes(self, samples: int = 1) -> dict[str, int]:
        """Bytes of the decoder's graph over all samples of a step, which exists as a whole, and of their gradients."""
        graph = saved_bytes_per_item(self.decoder, (self.decoder.config.num_latents,))
        images = 3 * VALUE_BYTES * math.prod(self.decoder.image_shape)
        return {"decoding": len(self) * samples * (graph + images)}

    def item_payload(self) -> dict[str, Tensor]:
        tensors = {"mean": stored_values(self.mean, self.storage)}
        if self.log_variance is not None:
            tensors["log_variance"] = stored_values(self.log_variance, self.storage)
        stored = store_decoder(self.decoder, self.storage)
        return tensors | {DECODER + name: tensor for name, tensor in stored.items()}

    def item_spec(self) -> dict[str, Any]:
        distribution: Distribution = "gaussian" if self.stochastic else "fixed"
        return PriorsSpec(decoder=self.decoder.config, storage=self.storage, distribution=distribution).facts

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        entry = DTYPE_OF[spec.storage], (num_items, spec.decoder.num_latents)
        names = ("mean", "log_variance") if spec.distribution == "gaussian" else ("mean",)
        weights = decoder_table(spec.decoder, code_shape, spec.storage)
        return dict.fromkeys(names, entry) | {DECODER + name: value for name, value in weights.items()}

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> Priors:
        """In evaluation mode. Raises InputError for variances that are below 0 or too large for float32."""
        log_variance = payload.get("log_variance")
        if log_variance is not None and not bool((0.5 * log_variance.float()).exp().isfinite().all()):
            raise InputError("payload tensor 'log_variance' has variances that are not finite; the file is damaged")
        weights = {name.removeprefix(DECODER): value for name, value in payload.items() if name.startswith(DECODER)}
        decoder = read_decoder(spec.decoder, codec.code_shape, weights)
        labels = payload["labels"].long()
        return Priors(codec, decoder, payload["mean"], labels, log_variance, spec.storage).eval()

    def _decoded(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(latents)
        return decoded

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Within, the decoder takes running statistics; afterwards its mode is what it was."""
        training = self.decoder.training
        self.decoder.eval()
        try:
            yield
        finally:
            self.decoder.train(training)


def _noise(count: int, num_latents: int, generator: torch.Generator) -> Float[Tensor, "items latents"]:
    """Standard normal values, float32 on the CPU, the same however items are cut into calls.

    PyTorch draws in blocks of 16, and draws the last one anew where it is not full: every item takes whole blocks.
    """
    width = -(-num_latents // NOISE_BLOCK) * NOISE_BLOCK
    return torch.randn(count, width, generator=generator)[:, :num_latents]
