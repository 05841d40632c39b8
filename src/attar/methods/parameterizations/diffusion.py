"""Diffusion: learned codes and conditioning, rendered through a frozen latent diffusion model (LD3M)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.device import Calling, saved_bytes_per_item
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.base.shapes import Float, Labels
from attar.methods.parameterizations.codes import Storage, codes_table, read_codes, store_codes
from attar.methods.parameterizations.parameterization import (
    ItemSpec,
    LabelStorage,
    Material,
    Table,
    given_preprocess,
    stored_values,
)
from attar.methods.parameterizations.rendered import VALUE_BYTES, Rendered, RenderedConfig
from attar.models.codecs.codec import Codec
from attar.models.diffusion.codec import with_model
from attar.models.diffusion.model import DiffusionModel
from attar.models.diffusion.sampling import item_noise, recomputed, sampled
from attar.models.diffusion.schedule import SamplingConfig

Learned = Literal["both", "codes", "conditioning"]
LARGEST_CONDITIONING = 2**16
CONDITIONING, CLASSES = "conditioning", "model_classes"
"""Names in a payload, which has one of them."""

KEPT_CODES = 4
"""Z, its gradient, the noise of z_T and z_T itself."""


class DiffusionConfig(RenderedConfig):
    """One code and one conditioning vector per item, rendered through the model of codec "diffusion".

    Args:
        sampling: steps, guidance, residual.
        storage: of codes; conditioning is float32 with float32, else float16.
        learned: what is optimised. Of conditioning that is not learned, its class in the model alone is stored.
        checkpointed: keep no step's activations: a third more time in constant memory.

    Raises:
        ValueError: conditioning is learned, and guidance 0 leaves it without effect.

    Source: LD3M section 3.1 and Table 7.
    """

    model: ClassVar[str | None] = "diffusion"

    kind: Literal["diffusion"] = "diffusion"
    sampling: SamplingConfig = SamplingConfig()
    storage: Storage = "float16"
    learned: Learned = "both"
    checkpointed: bool = True

    @model_validator(mode="after")
    def _conditioning_has_an_effect(self) -> DiffusionConfig:
        if self.sampling.guidance == 0 and self.learned != "codes":
            raise ValueError("guidance 0 asks for no class, so that conditioning has no effect; set learned=codes")
        return self

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        """As of the base; the seed is as long as any."""
        return _spec(self, 2**63 - 1, with_model(codec).model.conditioning_size)

    def initial(self, material: Material) -> Diffusion:
        codec, labels = with_model(material.spaces.codec), material.labels()
        names = [material.train.classes[label] for label in labels.tolist()]
        noise = generator(material.seed, "diffusion noise").initial_seed()
        inputs, classes = material.spaces.preprocess, codec.class_numbers(names)
        return Diffusion(codec, material.codes(), labels, self, noise, preprocess=inputs, classes=classes)


class DiffusionSpec(ItemSpec):
    """What a file says of its items: some of the settings, the seed of their noise, and the size d of conditioning."""

    kind: Literal["diffusion"] = "diffusion"
    sampling: SamplingConfig = SamplingConfig()
    storage: Storage = "float16"
    learned: Learned = "both"
    seed: int = Field(ge=0, lt=2**63)
    conditioning_size: int = Field(ge=1, le=LARGEST_CONDITIONING)


class Diffusion(Rendered):
    """M learned codes Z and conditioning vectors c, which a frozen model turns into images.

        z_T = sqrt(alpha_bar_T) Z_i + sqrt(1 - alpha_bar_T) eps_i0
        z_{t-1} = (1 - t/T) mu(c_i, z_t) + (t/T) z_T + sigma_t eps_it
        images(i) = decode(z_0),   forward(i) = preprocess(images(i))

    An item's noise depends on the set's seed, the item and the step alone: an image is the same in every pass, batch
    and reading of the file.

    Memory: of every step z_t is kept, and its activations are made again in the backward pass, one step of one chunk at
    a time; the same of the decoder.

    Args:
        codec: with the model.
        codes: float32 [M, c, h, w], the starting point of Z.
        classes: int64 [M], the model's class of each item, whose embedding c starts with, or stays.
        conditioning: float32 [M, d], of c, in place of `classes`.
        labels: int64 [M], class-major.
        config: what is learned and how it is rendered and stored.
        seed: of the noise.
        preprocess: images to network inputs.

    Raises:
        InputError: a codec without a model, conditioning of another size, or classes that the model has not.

    Source: LD3M Eq. 9-12 and Algorithm 1.
    Deviation: the paper and its official code draw noise anew in every pass, so that what is differentiated, and what
        is tested later, are other images than those whose loss was measured. See `sampled` for the others.
    """

    kind = "diffusion"
    spec_type = DiffusionSpec
    classes: Tensor | None

    def __init__(
        self,
        codec: Codec,
        codes: Float[Tensor, "items c h w"],
        labels: Labels,
        config: DiffusionConfig,
        seed: int,
        *,
        preprocess: Codec,
        classes: Labels | None = None,
        conditioning: Float[Tensor, "items d"] | None = None,
    ) -> None:
        super().__init__(labels)
        model_codec = with_model(codec)
        if (classes is None) == (conditioning is None) or (classes is None and config.learned == "codes"):
            raise ValueError("give the items' classes, or their conditioning where it is learned")
        if conditioning is None and classes is not None:
            conditioning = model_codec.conditioning(classes)
        size = model_codec.model.conditioning_size
        if conditioning is None or conditioning.shape != (len(labels), size):
            shape = None if conditioning is None else tuple(conditioning.shape)
            raise InputError(f"conditioning is {shape}; the model's is of {size}")
        self.codec, self.config, self.seed, self.preprocess = codec, config, seed, preprocess
        self.chunk_items, self.precision = config.chunk_items, config.precision
        self.codes = nn.Parameter(codes.detach().clone().float(), config.learned != "conditioning")
        self.conditioning = nn.Parameter(conditioning.detach().clone().float(), config.learned != "codes")
        self.register_buffer("classes", classes if config.learned == "codes" else None)
        self._start_noise: Tensor | None = None

    def halve_memory(self) -> bool:
        """Without checkpoints all activations exist at once, in chunks of any size."""
        return self.config.checkpointed and super().halve_memory()

    def rendering_bytes(self, samples: int = 1) -> dict[str, int]:
        """Bytes at the peak of a step's rendering, with its gradient, and of the frozen weights.

        The activations of one step or of the decoder, whichever is larger, exist for one chunk at a time; of every item
        the code of each step (two with "dpm"), and the image. Without checkpoints all activations of all steps and
        items exist at once.
        """
        codec, sampling = with_model(self.codec), self.config.sampling
        passes = 1 if sampling.guidance == 1 else 2
        of_step = passes * saved_bytes_per_item(Calling(codec.model, _predicted), codec.code_shape)
        of_decoder = saved_bytes_per_item(Calling(codec, type(codec).decode), codec.code_shape)
        if self.config.checkpointed:
            activations = min(self.chunk_items, len(self)) * max(of_step, of_decoder)
        else:
            activations = len(self) * (sampling.num_steps * of_step + of_decoder)
        codes = (2 if sampling.solver == "dpm" else 1) * sampling.num_steps + KEPT_CODES
        per_item = VALUE_BYTES * (codes * codec.num_code_values + 3 * codec.num_image_values)
        return {"rendering": int(activations + len(self) * per_item + self.weight_bytes())}

    def item_payload(self) -> dict[str, Tensor]:
        tensors = store_codes(self.codes.detach().cpu(), self.config.storage)
        if self.classes is not None:
            return tensors | {CLASSES: self.classes.cpu().to(torch.int32)}
        return tensors | {CONDITIONING: stored_values(self.conditioning, _conditioning_storage(self.config.storage))}

    def item_spec(self) -> dict[str, Any]:
        return _spec(self.config, self.seed, self.conditioning.shape[1])

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        table = codes_table(spec.storage, num_items, code_shape)
        if spec.learned == "codes":
            return table | {CLASSES: ("I32", (num_items,))}
        dtype = "F32" if _conditioning_storage(spec.storage) == "float32" else "F16"
        return table | {CONDITIONING: (dtype, (num_items, spec.conditioning_size))}

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> Diffusion:
        config = DiffusionConfig(sampling=spec.sampling, storage=spec.storage, learned=spec.learned)
        classes, conditioning = payload.get(CLASSES), payload.get(CONDITIONING)
        return Diffusion(
            codec,
            read_codes(payload),
            payload["labels"].long(),
            config,
            spec.seed,
            preprocess=given_preprocess(preprocess, cls.kind),
            classes=None if classes is None else classes.long(),
            conditioning=None if conditioning is None else conditioning.float(),
        )

    def _chunk(self, items: Tensor) -> Tensor:
        codec = with_model(self.codec)
        codes = sampled(
            codec.model,
            self.config.sampling,
            self.codes[items],
            self.conditioning[items],
            lambda step: self._noise(items, step),
            self.config.checkpointed,
        )
        if self.config.checkpointed and torch.is_grad_enabled():
            decoded: Tensor = recomputed(codec.decode, codes)
            return decoded
        return codec.decode(codes)

    def _noise(self, items: Tensor, step: int) -> Tensor:
        """That of z_T is needed in every pass and kept; that of a step is drawn when it is asked for."""
        if step:
            return self._drawn(items.tolist(), step).to(self.codes)
        noise = self._start_noise
        if noise is None or noise.device != self.codes.device or noise.dtype != self.codes.dtype:
            noise = self._start_noise = self._drawn(list(range(len(self))), 0).to(self.codes)
        return noise[items]

    def _drawn(self, numbers: list[int], step: int) -> Tensor:
        channels, height, width = self.codec.code_shape
        return item_noise(self.seed, numbers, step, (channels, height, width))


def _conditioning_storage(storage: Storage) -> LabelStorage:
    return "float32" if storage == "float32" else "float16"


def _spec(config: DiffusionConfig, seed: int, conditioning_size: int) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in ("sampling", "storage", "learned")}
    return DiffusionSpec(**settings, seed=seed, conditioning_size=conditioning_size).facts


def _predicted(model: DiffusionModel, codes: Tensor) -> Tensor:
    return model.predict(codes, 0, model.null.expand(len(codes), -1))
