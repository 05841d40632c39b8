"""Pixels as codes: normalised by channel, or ZCA-whitened."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory, content_key
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, CodecSettings
from attar.models.codecs.patches import BLOCK_VALUES, SMALLEST_SCALE
from attar.models.codecs.restoring import CodecSpec, parse_spec, require_positive, take_tensors

LARGEST_ZCA_VALUES = 3 * 64 * 64
DEFAULT_EPSILON = 0.1


class PixelsConfig(CodecSettings):
    """Images are their own codes after normalisation.

    Args:
        whitening: "normalise" subtracts each channel's mean and divides by its standard deviation; "zca" then removes
            the correlations between all values of an image as well.
        epsilon: added to the covariance's eigenvalues; only for "zca", where None means 0.1.
    """

    kind: Literal["pixels"] = "pixels"
    names = ("pixels", "zca")
    affine = True
    gives_inputs = True
    whitening: Literal["normalise", "zca"] = "normalise"
    epsilon: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _epsilon_has_an_effect(self) -> PixelsConfig:
        if self.epsilon is not None and self.whitening != "zca":
            raise ValueError("epsilon has no effect with whitening 'normalise'; leave it out, or choose 'zca'")
        return self

    def fit(self, images: ImageSet) -> Pixels:
        """Normalise by moments over all images, summed in blocks in float64; zca takes a few matrices of D x D.

        Raises:
            InputError: no images; for zca images of more than 3 x 64 x 64 values, or fewer than two images.
        """
        if len(images) == 0:
            raise InputError("there are no images to fit the pixels codec on; give at least one")
        mean, std = _channel_moments(images)
        if self.whitening == "normalise":
            spec = PixelsSpec(image_shape=images.image_shape, **self.model_dump())
            return Pixels(spec, {"mean": mean.float(), "std": std.float()})
        return fit_whitening(images, std, DEFAULT_EPSILON if self.epsilon is None else self.epsilon)

    @classmethod
    def from_text(cls, name: str, settings: str) -> PixelsConfig:
        if settings:
            raise InputError(f"codec '{name}:{settings}': {name} takes no settings; write {name}")
        return cls(whitening="zca" if name == "zca" else "normalise")


class PixelsSpec(CodecSpec, PixelsConfig):
    """A fitted PixelsConfig."""


class Pixels(Codec):
    """Normalised or whitened images.

        normalise: code = (image - mean) / std
        zca:       code = W (image - mean) / std,      image = mean + std W^-1 code
                   W = U (S + epsilon)^-1/2 U^T,       U S U^T the covariance (over n - 1) of normalised images

    mean and std are those of each channel; the mean of zca is that of each value.

    Args:
        spec: shape and kind of whitening.
        tensors: "mean" float32 [C] or, for zca, [C, H, W]; "std" float32 [C]; for zca "triangle", the upper triangle
            of the symmetric W row by row, float32 [D (D + 1) / 2] with D = C H W.

    Source: ZCA as MTT uses it (kornia's ZCAWhitening, epsilon 0.1).
    Deviation: on images already normalised by channel; the published code whitens images in [0, 1] as they are.
    """

    kind = "pixels"
    latent = False
    mean: Tensor
    std: Tensor
    whiten: Tensor
    unwhiten: Tensor

    def __init__(self, spec: PixelsSpec, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.image_shape = self.code_shape = spec.image_shape
        self.cheap = self.pixelwise = spec.whitening == "normalise"
        self.register_buffer("mean", tensors["mean"], persistent=False)
        self.register_buffer("std", tensors["std"], persistent=False)
        if spec.whitening == "zca":
            matrix = _full(tensors["triangle"], self.num_image_values)
            self.register_buffer("whiten", matrix, persistent=False)
            self.register_buffer("unwhiten", _inverse(matrix), persistent=False)
        self._spec = spec

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        normalised = (images - self._mean_image()) / self.std[:, None, None]
        return normalised if self.pixelwise else (normalised.flatten(1) @ self.whiten).reshape(images.shape)

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        normalised = codes if self.pixelwise else (codes.flatten(1) @ self.unwhiten).reshape(codes.shape)
        return normalised * self.std[:, None, None] + self._mean_image()

    def stored_tensors(self) -> dict[str, Tensor]:
        stored = {"mean": self.mean.cpu(), "std": self.std.cpu()}
        if not self.pixelwise:
            stored["triangle"] = self.whiten.cpu()[_upper(self.num_image_values)]
        return stored

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Pixels:
        parsed = parse_spec(PixelsSpec, spec)
        colours = parsed.image_shape[0]
        shapes: dict[str, tuple[int, ...]] = {"mean": (colours,), "std": (colours,)}
        if parsed.whitening == "zca":
            values = _zca_values(parsed.image_shape)
            shapes |= {"mean": parsed.image_shape, "triangle": (values * (values + 1) // 2,)}
        take_tensors(tensors, shapes)
        require_positive("std", tensors["std"])
        return cls(parsed, tensors)

    def _mean_image(self) -> Tensor:
        return self.mean if self.mean.ndim == 3 else self.mean[:, None, None]


def fit_whitening(images: ImageSet, std: Float[Tensor, " channels"], epsilon: float) -> Pixels:
    """The whitening of images that are divided by `std` first; its matrix is kept under $ATTAR_CACHE/zca.

    Args:
        images: training images.
        std: float64 [C], what each channel is divided by; ones leave it as it is.
        epsilon: added to the covariance's eigenvalues.

    Raises:
        InputError: as of `PixelsConfig.fit`.
    """
    _zca_values(images.image_shape)
    spec = PixelsSpec(image_shape=images.image_shape, whitening="zca", epsilon=epsilon)
    path = cache_directory("zca") / f"{content_key('zca', 1, epsilon, images.fingerprint, std.tolist())}.safetensors"
    if not path.exists():
        with atomic_path(path) as temporary:
            save_file(_zca_tensors(images, std, epsilon), temporary)
    return Pixels.restore(spec.model_dump(mode="json"), load_file(path))


def _zca_tensors(images: ImageSet, std: Tensor, epsilon: float) -> dict[str, Tensor]:
    mean_image, covariance = _image_moments(images, std)
    variances, vectors = torch.linalg.eigh(covariance)
    matrix = (vectors * (variances.clamp_min(0) + epsilon).rsqrt()) @ vectors.T
    triangle = matrix.float()[_upper(len(matrix))]
    return {"mean": mean_image.float(), "std": std.float(), "triangle": triangle}


def _channel_moments(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in [0, 1], float64 [C]; exact, from sums of integers."""
    colours, height, width = images.image_shape
    total, squares = torch.zeros(colours, dtype=torch.int64), torch.zeros(colours, dtype=torch.int64)
    for block in images.images.split(max(1, BLOCK_VALUES // (colours * height * width))):
        histogram = torch.stack([torch.bincount(block[:, c].flatten(), minlength=256) for c in range(colours)])
        total += (histogram * torch.arange(256)).sum(1)
        squares += (histogram * torch.arange(256).square()).sum(1)
    count = len(images) * height * width
    mean = total.double() / count
    variance = (squares.double() / count - mean.square()).clamp_min(0)
    return mean / 255, (variance.sqrt() / 255).clamp_min(SMALLEST_SCALE)


def _image_moments(images: ImageSet, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean image in [0, 1], float64 [C, H, W], and the covariance of the normalised images, float64 [D, D]."""
    values = _zca_values(images.image_shape)
    if len(images) < 2:
        raise InputError(f"{len(images)} image cannot be whitened; give at least two, or choose whitening 'normalise'")
    blocks = images.images.split(max(1, BLOCK_VALUES // values))
    mean = sum((block.sum(0, dtype=torch.int64) for block in blocks), torch.zeros(())).double() / (255 * len(images))
    covariance = torch.zeros(values, values, dtype=torch.float64)
    for block in blocks:
        centred = ((block.double() / 255 - mean) / std[:, None, None]).flatten(1)
        covariance.addmm_(centred.T, centred)
    return mean, covariance / (len(images) - 1)


def _zca_values(image_shape: tuple[int, int, int]) -> int:
    colours, height, width = image_shape
    values = colours * height * width
    if values > LARGEST_ZCA_VALUES:
        raise InputError(
            f"zca needs a matrix of {values} x {values} for images of {colours} x {height} x {width}; at most "
            f"{LARGEST_ZCA_VALUES} values (3 x 64 x 64) are allowed: choose 'normalise', or smaller images"
        )
    return values


def _upper(size: int) -> Tensor:
    """Which entries of a square matrix lie on or above its diagonal."""
    return torch.ones(size, size, dtype=torch.bool).triu()


def _full(triangle: Tensor, size: int) -> Tensor:
    matrix = torch.zeros(size, size)
    matrix[_upper(size)] = triangle
    return matrix + matrix.triu(1).T


def _inverse(matrix: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix.double())
    if int(failed):
        raise InputError("the codec's whitening matrix is not positive definite; the file is damaged")
    return torch.cholesky_inverse(factor).float()
