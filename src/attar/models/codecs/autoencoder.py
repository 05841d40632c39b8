"""Pretrained autoencoders, read with diffusers: Stable Diffusion's VAE is LatentDD's codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError, unknown
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, CodecSettings, ExternalWeights
from attar.models.codecs.restoring import CodecSpec, PublicModel, parse_spec, take_tensors
from attar.models.codecs.weights import Weights, find_weights, require_weights

ARCHITECTURES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")


class AutoencoderConfig(CodecSettings):
    """A pretrained autoencoder.

    Args:
        path: a folder in diffusers' layout (also with a vae subfolder) or TAESD's pair of files; or a name under
            $ATTAR_WEIGHTS; or a hub id.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    names = ("autoencoder",)
    read_from_file = True
    path: str = Field(min_length=1)

    def fit(self, images: ImageSet) -> Autoencoder:
        return Autoencoder(images.image_shape, find_weights(self.path))

    @classmethod
    def from_text(cls, name: str, settings: str) -> AutoencoderConfig:
        if not settings:
            raise InputError("codec 'autoencoder' needs weights; write autoencoder:FOLDER or autoencoder:OWNER/NAME")
        return cls(path=settings)

    def without_paths(self, codec: Codec) -> AutoencoderConfig:
        external = codec.external()
        return self if external is None else AutoencoderConfig(path=external.id)


class AutoencoderSpec(CodecSpec, PublicModel):
    """What a file says of an autoencoder, whose weights are public."""

    kind: Literal["autoencoder"] = "autoencoder"


class Autoencoder(Codec):
    """A frozen AutoencoderKL, AutoencoderTiny or VQModel, in float32 whatever its files hold.

        encode(x) = (E(2x - 1) - shift - mean) scaling / std,    decode(z) = (D(z std / scaling + mean + shift) + 1) / 2

    E is the mode of an AutoencoderKL's posterior (not a sample) and a VQModel's latent before quantisation; a VQModel's
    decode quantises, with the straight-through gradient. `scaling`, `shift` and the channels' mean and std are those of
    the model's own config, or 1, 0, 0, 1. Grey images go in as three equal channels, and the mean of the three comes
    out.

    Args:
        image_shape: (C, H, W); H and W multiples of the model's down-sampling factor.
        weights: the model's files.

    Raises:
        InputError: diffusers is absent, the files are damaged, or the model does not fit the images.

    Source: LatentDD section 4.1 (Stable Diffusion v1.4's autoencoder, f = 8, 4 channels).
    """

    kind = "autoencoder"
    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, image_shape: tuple[int, int, int], weights: Weights) -> None:
        super().__init__()
        read = _read_reference if weights.reference_layout else read_diffusers
        self.model = read_pretrained("autoencoder", ARCHITECTURES, weights, read)
        self.image_shape = image_shape
        self.code_shape = _code_shape(image_shape, self.model.config)
        settings = self.model.config
        is_vq = weights.config.get("_class_name") == "VQModel"  # for which diffusers' default is another family's
        self.scaling = float((weights.config if is_vq else settings).get("scaling_factor") or 1)
        self.shift = float(settings.get("shift_factor") or 0)
        for name, neutral in (("latents_mean", 0.0), ("latents_std", 1.0)):
            value = torch.tensor(settings.get(name) or [neutral], dtype=torch.float32)[:, None, None]
            self.register_buffer(name, value, persistent=False)
        self._weights = weights
        tensors = (*self.model.parameters(), *self.model.buffers())
        self.num_values = sum(tensor.numel() for tensor in tensors)

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        encoded = self.model.encode(2 * images.expand(-1, 3, -1, -1) - 1)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents - self.shift - self.latents_mean) * self.scaling / self.latents_std

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        latents = codes * self.latents_std / self.scaling + self.latents_mean + self.shift
        images = (self.model.decode(latents).sample + 1) / 2
        return images if self.image_shape[0] == 3 else images.mean(1, keepdim=True)

    def spec(self) -> dict[str, Any]:
        spec = AutoencoderSpec(
            image_shape=self.image_shape, config_sha256=self._weights.config_sha256, **self.external().model_dump()
        )
        return spec.model_dump(mode="json")

    def external(self) -> ExternalWeights:
        weights = self._weights
        return ExternalWeights(
            id=weights.id, sha256=weights.sha256, num_bytes=weights.num_bytes, num_values=self.num_values
        )

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Autoencoder:
        parsed = parse_spec(AutoencoderSpec, spec)
        take_tensors(tensors, {})
        weights = require_weights(parsed)
        if weights.config_sha256 != parsed.config_sha256:
            raise InputError(
                f"the config.json of the autoencoder {parsed.id!r} differs from the one this file was made with; "
                "restore it from the model's source"
            )
        return cls(parsed.image_shape, weights)


def read_pretrained(
    what: str, architectures: Sequence[str], weights: Weights, read: Callable[[Any, Weights], Any]
) -> Any:
    """A model of diffusers, frozen and in evaluation mode.

    Args:
        what: what messages call it.
        architectures: names of diffusers' classes, of which the model's must be one.
        weights: the model's files.
        read: the model of one of these classes and of these weights, in float32.

    Raises:
        InputError: diffusers is absent, the class is another, or weights are missing or damaged.
    """
    try:
        import diffusers
    except ImportError:
        raise InputError(
            f"the {what} {weights.id!r} needs diffusers, which is absent; run: pip install 'attar[diffusion]'"
        ) from None
    name = str(weights.config.get("_class_name"))
    if name not in architectures:
        raise unknown(f"{what} class", name, architectures)
    try:
        return read(getattr(diffusers, name), weights).requires_grad_(False).eval()
    except InputError:
        raise
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged folder
        raise InputError(f"the {what} {weights.id!r} cannot be read ({one_line(error)}); restore its files") from error


def read_diffusers(architecture: Any, weights: Weights) -> Any:
    """A model of a diffusers class in float32, from a folder in its layout. Raises InputError for missing weights."""
    variant = "fp16" if ".fp16." in weights.files[0].name else None
    model, report = architecture.from_pretrained(
        weights.files[0].parent,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
        torch_dtype=torch.float32,
        output_loading_info=True,
    )
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        raise InputError(f"{weights.files[0]} lacks {len(absent)} weights, e.g. {absent[0]}; restore the file")
    return model


def _read_reference(architecture: Any, weights: Weights) -> Any:
    """TAESD's own files: the decoder's layer 0 is a clamp without weights, which diffusers does not count."""
    from safetensors.torch import load_file

    decoder, encoder = (load_file(path) for path in weights.files)
    state = {f"encoder.layers.{key}": value.float() for key, value in encoder.items()}
    for key, value in decoder.items():
        index, rest = key.split(".", 1)
        state[f"decoder.layers.{int(index) - 1}.{rest}"] = value.float()
    model = architecture(latent_channels=weights.config["latent_channels"])
    model.load_state_dict(state, strict=True)
    return model


def _code_shape(image_shape: tuple[int, int, int], settings: Any) -> tuple[int, int, int]:
    # Every level of the encoder but the last halves the picture.
    colours, height, width = image_shape
    if settings["in_channels"] != 3 or settings["out_channels"] != 3 or colours not in (1, 3):
        received = f"{settings['in_channels']} to {settings['out_channels']} channels, images of {colours}"
        raise InputError(f"the autoencoder maps {received}; RGB to RGB with images of 1 or 3 channels is needed")
    levels = settings.get("block_out_channels") or settings.get("encoder_block_out_channels")
    factor = 2 ** (len(levels) - 1)
    if height % factor or width % factor:
        nearest = " x ".join(str(max(factor, round(side / factor) * factor)) for side in (height, width))
        raise InputError(
            f"the autoencoder needs sides that are multiples of {factor}, and the images are {height} x {width}; "
            f"resize them, e.g. to {nearest}"
        )
    channels = settings.get("vq_embed_dim") or settings["latent_channels"]
    return channels, height // factor, width // factor
