"""Which codecs there are: made for a data set, restored from a file, named on the command line."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field
from torch import Tensor

from attar.base.errors import unknown
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.codecs.plain import PLAIN, PlainConfig
from attar.models.codecs.restoring import restore_one_of
from attar.models.diffusion.codec import DiffusionCodec, DiffusionCodecConfig
from attar.models.generators.codec import GeneratorCodec, GeneratorCodecConfig

AnyConfig = PlainConfig | DiffusionCodecConfig | GeneratorCodecConfig
CodecConfig = Annotated[AnyConfig, Field(discriminator="kind")]
CODECS: tuple[type[Codec], ...] = (*PLAIN, DiffusionCodec, GeneratorCodec)
CONFIGS: dict[str, Any] = {name: config for config in get_args(AnyConfig) for name in config.names}
"""The configuration for each name of the command line."""


def fit_codec(config: CodecConfig, images: ImageSet) -> Codec:
    """The codec that `config` describes, fitted to training images; never to test images. Raises InputError."""
    return config.fit(images)


def restore_codec(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec whose `spec()` and `stored_tensors()` these are, e.g. out of a file that nobody vouches for.

    Raises:
        InputError: anything malformed, inconsistent, out of bounds or not finite; external weights absent.
    """
    return restore_one_of(CODECS, spec, tensors)


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
    name, _, settings = text.partition(":")
    if name not in CONFIGS:
        raise unknown("codec", name, CONFIGS)
    config: CodecConfig = CONFIGS[name].from_text(name, settings)
    return config
