"""What foreign images are normalised with, as a codec: by name, by numbers, or whitened as MTT's code does."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.data.image_set import ImageSet
from attar.models.codecs.pixels import DEFAULT_EPSILON, Pixels, PixelsConfig, PixelsSpec, fit_whitening

Values = Literal["plain", "inputs"]

# Channel means and standard deviations that the published codes of DC and MTT hold. CIFAR-10's are not its pixels'
# own, .247 .243 .262; MTT's code takes CIFAR-10's for CIFAR-100 too.
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
CHOICES = f"{', '.join(PUBLISHED)}, data (the statistics of --data), none, or mean/std, e.g. 0.49,0.48,0.45/0.2,0.2,0.2"

BLOCK = 256

# Values of pictures stay near [0, 1]; unwhitened ones leave it a little.
NEAR = 0.25
# Of CIFAR-10, about the channels' means: 0.26 whitened, 1.2 normalised.
LARGEST_WHITENED_SPREAD = 0.7


@dataclass(frozen=True)
class Look:
    """What values of images look like.

    Args:
        low, high: the extremes.
        spread: root mean square about the channels' means.
        kind: "pictures" (about 0 to 1), "normalised" or "whitened".
    """

    low: float
    high: float
    spread: float
    kind: Literal["pictures", "normalised", "whitened"]

    def __str__(self) -> str:
        return f"values run from {self.low:.3g} to {self.high:.3g} with a spread of {self.spread:.3g}"


def look_at(images: Tensor) -> Look:
    """What the values of float images [N, C, H, W] suggest; a suspicion, not a proof.

    Pictures lie about [0, 1]. Whitened images (ZCA with epsilon 0.1) spread less than normalised ones, because only
    few directions of natural images have more variance than epsilon.
    """
    means = images.mean((0, 2, 3), keepdim=True, dtype=torch.float64)
    squares = sum(float((block.double() - means).square().sum()) for block in images.split(BLOCK))
    spread = math.sqrt(squares / images.numel())
    low, high = float(images.min()), float(images.max())
    if low >= -NEAR and high <= 1 + NEAR:
        return Look(low, high, spread, "pictures")
    whitened = spread < LARGEST_WHITENED_SPREAD and float(means.abs().max()) < NEAR
    return Look(low, high, spread, "whitened" if whitened else "normalised")


def normalisation(text: str, image_shape: tuple[int, int, int], real: ImageSet | None) -> Pixels:
    """The codec that `--normalization` names, for images of this shape.

    Args:
        text: a name of `PUBLISHED`, "data", "none", or "0.49,0.48,0.45/0.2,0.2,0.2".
        image_shape: (C, H, W).
        real: training images, for "data".

    Raises:
        InputError: an unknown name, another number of channels, "data" without data.
    """
    if text == "data":
        if real is None:
            raise InputError("--normalization data needs the real images; give --data")
        return PixelsConfig().fit(real)
    channels = image_shape[0]
    if text == "none":
        mean, std = (0.0,) * channels, (1.0,) * channels
    elif text in PUBLISHED:
        mean, std = PUBLISHED[text]
    elif "/" in text:
        mean, std = _numbers(text)
    else:
        raise unknown("normalization", text, [*PUBLISHED, "data", "none"])
    if len(mean) != channels or len(std) != channels:
        raise InputError(
            f"--normalization {text} has {len(mean)} means and {len(std)} deviations, and the images {channels} "
            f"channels; take {CHOICES}"
        )
    spec = PixelsSpec(image_shape=image_shape)
    return Pixels(spec, {"mean": torch.tensor(mean), "std": torch.tensor(std)})


def whitening(real: ImageSet | None) -> Pixels:
    """ZCA as MTT's, DC-BENCH's and DD-Ranking's codes fit it: epsilon 0.1, on images in [0, 1] as they are.

        W = U (S + 0.1)^-1/2 U^T,   U S U^T the covariance (over n - 1) of the flattened training images

    Raises:
        InputError: no data.

    Source: MTT's utils.py, `get_dataset` with zca; kornia's ZCAWhitening.
    """
    if real is None:
        raise InputError("--zca needs the training images that its matrix is fitted on; give --data")
    return fit_whitening(real, torch.ones(real.image_shape[0], dtype=torch.float64), DEFAULT_EPSILON)


def _numbers(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    parts = text.split("/")
    number = r"\s*\d*\.?\d+(e-?\d+)?\s*"
    if len(parts) != 2 or not all(re.fullmatch(f"{number}(,{number})*", part) for part in parts):
        raise InputError(f"--normalization {text!r} is not understood; take {CHOICES}")
    mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
    if not all(1e-6 < number < 1e6 for number in std) or not all(number < 1e6 for number in mean):
        raise InputError(f"--normalization {text!r} has a deviation that is not positive; take {CHOICES}")
    return mean, std
