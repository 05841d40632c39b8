"""Which codecs there are: made for a data set, restored from a file, named on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import Autoencoder, AutoencoderConfig, fit_autoencoder
from attar.models.codecs.codec import Codec
from attar.models.codecs.dct import Dct, DctConfig, fit_dct
from attar.models.codecs.diffusion import DiffusionCodecConfig
from attar.models.codecs.generator import GeneratorCodecConfig
from attar.models.codecs.pca import Pca, PcaConfig, fit_pca
from attar.models.codecs.pixels import Pixels, PixelsConfig, fit_pixels
from attar.models.codecs.resample import Resample, ResampleConfig, ResampleSpec, magnified_sample
from attar.models.codecs.restoring import parse_spec
from attar.models.diffusion.codec import fit_diffusion, restore_diffusion
from attar.models.generators.codec import fit_generator, restore_generator

CodecConfig = Annotated[
    PixelsConfig
    | PcaConfig
    | DctConfig
    | AutoencoderConfig
    | ResampleConfig
    | DiffusionCodecConfig
    | GeneratorCodecConfig,
    Field(discriminator="kind"),
]

KINDS: dict[str, Any] = {"pixels": Pixels, "pca": Pca, "dct": Dct, "autoencoder": Autoencoder}
NAMES = ("pixels", "zca", "pca", "dct", "autoencoder", "resample", "diffusion", "generator")


def fit_codec(config: CodecConfig, images: ImageSet) -> Codec:
    """The codec that `config` describes, for images of this shape and, where it learns anything, fitted to them.

    Args:
        config: one of the seven kinds.
        images: training images; never test images.

    Raises:
        InputError: the images do not suit the codec, or its weights cannot be found.
    """
    match config:
        case PixelsConfig():
            return fit_pixels(config, images)
        case PcaConfig():
            return fit_pca(config, images)
        case DctConfig():
            return fit_dct(config, images)
        case AutoencoderConfig():
            return fit_autoencoder(config, images)
        case ResampleConfig():
            return Resample(fit_codec(config.codec, magnified_sample(images, config.factor)), config.factor)
        case DiffusionCodecConfig():
            return fit_diffusion(config, images, restore_codec)
        case GeneratorCodecConfig():
            return fit_generator(config, images)


def restore_codec(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec whose `spec()` and `stored_tensors()` these are, e.g. out of a file that nobody vouches for.

    Raises:
        InputError: anything malformed, inconsistent, out of bounds or not finite; external weights absent.
    """
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if kind == "resample":
        return _restore_resample(spec, tensors)
    if kind == "diffusion":
        return restore_diffusion(spec, tensors, restore_codec)
    if kind == "generator":
        return restore_generator(spec, tensors)
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("codec", str(kind)[:80], [*KINDS, "resample", "diffusion", "generator"])
    return KINDS[kind].restore(spec, tensors)


def codec_from_text(text: str) -> CodecConfig:
    """The configuration a codec's short name stands for.

    pixels, zca, pca, pca:f4c4 (4 x 4 patches to 4 channels), pca:f4c4-whiten, dct:f8c6, autoencoder:PATH_OR_ID,
    resample:2:autoencoder:PATH_OR_ID, diffusion:PATH_OR_ID, generator:FILE.

    Raises:
        InputError: an unknown name (the nearest is named) or settings that do not fit it.

    Example:
        >>> codec_from_text("pca:f4c6").channels
        6
    """
    name, _, rest = text.partition(":")
    if name not in NAMES:
        raise unknown("codec", name, NAMES)
    if name in ("pixels", "zca"):
        if rest:
            raise InputError(f"codec {text!r}: {name} takes no settings; write {name}")
        return PixelsConfig(whitening="zca" if name == "zca" else "normalise")
    if name == "autoencoder":
        if not rest:
            raise InputError("codec 'autoencoder' needs weights; write autoencoder:FOLDER or autoencoder:OWNER/NAME")
        return AutoencoderConfig(path=rest)
    if name == "diffusion":
        if not rest:
            raise InputError("codec 'diffusion' needs a model; write diffusion:prior.safetensors or diffusion:FOLDER")
        return DiffusionCodecConfig(path=rest)
    if name == "generator":
        if not rest:
            raise InputError("codec 'generator' needs weights; write generator:FILE.safetensors")
        return GeneratorCodecConfig(path=rest)
    return _resample_from_text(text, rest) if name == "resample" else _patches_from_text(text, name, rest)


def without_paths(config: CodecConfig, codec: Codec) -> CodecConfig:
    """`config` as a manifest may hold it: a folder of weights is replaced by the weights' id.

    Args:
        config: what `codec` was made from.
        codec: what `fit_codec` made of it.
    """
    if isinstance(config, DiffusionCodecConfig | GeneratorCodecConfig):
        return config.model_copy(update={"path": None if config.path is None else Path(config.path).name})
    external = codec.external()
    if external is None:
        return config
    if isinstance(config, ResampleConfig):
        return config.model_copy(update={"codec": AutoencoderConfig(path=external.id)})
    return AutoencoderConfig(path=external.id)


def _restore_resample(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Resample:
    parsed = parse_spec(ResampleSpec, spec)
    colours, height, width = parsed.image_shape
    if parsed.codec.get("kind") not in ("autoencoder", "pca", "dct"):
        raise InputError("a resample codec contains an autoencoder, pca or dct codec; the file is damaged")
    if parsed.codec.get("image_shape") != [colours, height * parsed.factor, width * parsed.factor]:
        raise InputError("a resample codec's shape and its inner codec's do not fit together; the file is damaged")
    return Resample(restore_codec(parsed.codec, tensors), parsed.factor)


def _patches_from_text(text: str, name: str, rest: str) -> CodecConfig:
    model = PcaConfig if name == "pca" else DctConfig
    if not rest:
        return model()
    match = re.fullmatch(r"f(\d{1,4})c(\d{1,5})(?:-(whiten|global|none))?", rest)
    if match is None:
        raise InputError(f"codec {text!r}: write e.g. {name}:f4c4 (4 x 4 patches to 4 channels) or {name}:f4c4-whiten")
    try:
        return model(factor=int(match[1]), channels=int(match[2]), scaling=match[3] or "global")  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(f"codec {text!r}: {fault['loc'][0]}: {fault['msg']}") from None


def _resample_from_text(text: str, rest: str) -> ResampleConfig:
    factor, _, inner = rest.partition(":")
    if not factor.isdecimal() or not 2 <= int(factor) <= 8 or not inner:
        raise InputError(f"codec {text!r}: write e.g. resample:2:autoencoder:FOLDER; the factor is 2..8")
    codec = codec_from_text(inner)
    if isinstance(codec, PixelsConfig | ResampleConfig | DiffusionCodecConfig | GeneratorCodecConfig):
        raise InputError(f"codec {text!r}: autoencoder, pca or dct can be resampled, {inner.partition(':')[0]} cannot")
    return ResampleConfig(factor=int(factor), codec=codec)
