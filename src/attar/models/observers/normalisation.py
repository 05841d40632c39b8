"""What an observer's network is given: images, normalised in one of the usual ways."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.models.codecs.pixels import Pixels, PixelsConfig, PixelsSpec

Normalisation: TypeAlias = Literal["data", "imagenet", "none", "symmetric"]

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)

_CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
}


def pixels_normalised(normalisation: Normalisation, images: ImageSet) -> Pixels:
    """The codec from images in [0, 1] to network inputs.

        (image - mean) / std

    Args:
        normalisation: "data" is each channel's mean and deviation over `images`, "imagenet" those of ImageNet as
            torchvision has them, "none" leaves [0, 1], "symmetric" makes it [-1, 1].
        images: the training images, or for all but "data" any of their shape.

    Raises:
        InputError: ImageNet's three channels on grey images.
    """
    if normalisation == "data":
        return PixelsConfig().fit(images)
    channels = images.image_shape[0]
    mean, std = (torch.tensor(values) for values in _CONSTANTS[normalisation])
    if len(mean) not in (1, channels):
        raise InputError(
            f"normalisation 'imagenet' has 3 channels and the images {channels}; take 'data', or load the images "
            "with --channels rgb"
        )
    spec = PixelsSpec(image_shape=images.image_shape)
    return Pixels(spec, {"mean": mean.expand(channels).clone(), "std": std.expand(channels).clone()})
