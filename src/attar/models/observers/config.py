"""Which network observes, how it comes to know the data, and how images are normalised for it."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from pydantic import Field, model_validator

from attar.base.config import Config
from attar.base.errors import InputError
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.models.codecs.pixels import Pixels, PixelsConfig, PixelsSpec
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import TrainingConfig

Normalisation: TypeAlias = Literal["data", "imagenet", "none", "symmetric"]

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)

_CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
}

TRAINING = TrainingConfig(
    epochs=10,
    batch_size=128,
    learning_rate=0.05,
    schedule="cosine",
    augmentation=DsaConfig(strategy="crop_flip", mode="multiple"),
    min_steps=600,
)
"""How observers are trained unless told otherwise.

On 360 of the built-in digits, the network trained on the other 1,437 for 1,000 steps, SGD at 0.05 had 96.4 % right
(mean of seeds 1 to 3, one CPU core); at 0.1 and 0.01 95.8 and 94.4; AdamW at 3e-3 and 1e-3 95.7 and 93.8. Digits have
no mirror images: without flip it is 99.3 %.
"""


class ObserverConfig(Config):
    """A network trained on the real data, or one with given weights.

    Args:
        network: its architecture; batch norm is what RDED, SRe2L and LIC observe with.
        training: how it is trained.
        weights: in place of training: the path of a .safetensors state dict, or the name of public weights,
            "torchvision:resnet18", "timm:resnet18.a1_in1k"; they must fit `network` and the data's classes.
        normalisation: of its inputs, see `pixels_normalised`.
        least_accuracy: percent of training images that it must have right.
        seed: of its training.

    Raises:
        InputError: settings of a training that given weights replace.
    """

    network: NetworkConfig = NetworkConfig(norm="batch")
    training: TrainingConfig = TRAINING
    weights: str | None = None
    normalisation: Normalisation = "data"
    least_accuracy: float = Field(default=30.0, ge=0, le=100)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _training_has_an_effect(self) -> ObserverConfig:
        usual = {name: type(self).model_fields[name].default for name in ("training", "seed")}
        ignored = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.weights is not None and ignored:
            raise InputError(
                f"{' and '.join(ignored)} cannot be chosen for an observer with weights, which is not trained; leave "
                "out either"
            )
        return self

    def without_flip(self) -> ObserverConfig:
        """The same, trained without mirrored images."""
        return self.model_copy(update={"training": self.training.without_flip()})


def pixels_normalised(normalisation: Normalisation, images: ImageSet) -> Pixels:
    """The codec from images in [0, 1] to network inputs.

        (image - mean) / std

    "data" takes each channel's mean and deviation over `images`, "imagenet" those of ImageNet as torchvision has them,
    "none" leaves [0, 1], "symmetric" makes it [-1, 1]; all but "data" need only the shape of the images.

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
