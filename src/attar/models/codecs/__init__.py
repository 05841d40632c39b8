"""Images to codes and back: pixels, patch PCA, patch DCT, pretrained autoencoders, and resampling around them."""

from __future__ import annotations

from attar.models.codecs.codec import Codec, ExternalWeights, codes_per_image
from attar.models.codecs.encoding import encode_images
from attar.models.codecs.registry import CodecConfig, codec_from_text, fit_codec, restore_codec

__all__ = [
    "Codec",
    "CodecConfig",
    "ExternalWeights",
    "codec_from_text",
    "codes_per_image",
    "encode_images",
    "fit_codec",
    "restore_codec",
]
