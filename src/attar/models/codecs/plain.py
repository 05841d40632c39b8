"""The codecs of images that carry no model which renders items: those whose codes such a model may be of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attar.models.codecs.autoencoder import Autoencoder, AutoencoderConfig
from attar.models.codecs.codec import Codec
from attar.models.codecs.dct import Dct, DctConfig
from attar.models.codecs.pca import Pca, PcaConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.resample import Resample, ResampleConfig
from attar.models.codecs.restoring import restore_one_of

PlainConfig = PixelsConfig | PcaConfig | DctConfig | AutoencoderConfig | ResampleConfig
PLAIN: tuple[type[Codec], ...] = (Pixels, Pca, Dct, Autoencoder, Resample)


def restore_plain(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """As `restore_codec`, without the codecs that carry a model. Raises InputError."""
    return restore_one_of(PLAIN, spec, tensors)
