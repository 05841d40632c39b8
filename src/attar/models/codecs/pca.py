"""Patch PCA: the principal components of a data set's own patches, fitted in seconds, nothing to download."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, CodecSettings
from attar.models.codecs.patches import PatchBasis, Scaling, channel_scales, patch_blocks, patch_code_shape
from attar.models.codecs.restoring import CodecSpec, parse_spec, require_positive, take_tensors

Factor = Annotated[int, Field(ge=1, le=64)]
Channels = Annotated[int, Field(ge=1, le=3 * 64 * 64)]


class PcaConfig(CodecSettings):
    """Patches of `factor` x `factor` pixels become `channels` coefficients each.

    Args:
        factor: side of a patch in pixels; divides both sides of the images.
        channels: coefficients kept of each patch, those of largest variance.
        scaling: "global" divides all coefficients by one number so that their mean square is 1; "whiten" gives each
            channel unit variance; "none" leaves the orthonormal projection.
    """

    affine = True
    kind: Literal["pca"] = "pca"
    factor: Factor = 4
    channels: Channels = 4
    scaling: Scaling = "global"


class PcaSpec(CodecSpec, PcaConfig):
    """A fitted PcaConfig."""


class Pca(Codec):
    """Principal components of non-overlapping patches. Stores the components, the mean patch and the scales.

    Args:
        spec: shapes and scaling.
        tensors: "basis" float32 [c, C, f, f] with orthonormal rows, "mean" float32 [C, f, f], "scale" float32 [c].
    """

    kind = "pca"
    cheap = True

    def __init__(self, spec: PcaSpec, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.image_shape = spec.image_shape
        self.code_shape = patch_code_shape(spec.image_shape, spec.factor, spec.channels)
        self.patch_basis = PatchBasis(tensors["basis"], tensors["mean"], tensors["scale"])
        self._spec = spec

    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        return self.patch_basis.encode(images)

    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        return self.patch_basis.decode(codes)

    def spec(self) -> dict[str, Any]:
        return self._spec.model_dump(mode="json")

    def stored_tensors(self) -> dict[str, Tensor]:
        part = self.patch_basis
        return {"basis": part.basis.cpu(), "mean": part.mean.cpu(), "scale": part.scale.cpu()}

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Pca:
        """Rebuild from what `spec` and `stored_tensors` gave. Raises InputError where they are damaged."""
        parsed = parse_spec(PcaSpec, spec)
        patch_code_shape(parsed.image_shape, parsed.factor, parsed.channels)
        patch = (parsed.image_shape[0], parsed.factor, parsed.factor)
        shapes = {"basis": (parsed.channels, *patch), "mean": patch, "scale": (parsed.channels,)}
        taken = take_tensors(tensors, shapes)
        require_positive("scale", taken["scale"])
        rows = taken["basis"].flatten(1).double()
        if not torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-4):
            raise InputError("the codec's tensor 'basis' is not orthonormal; the file is damaged")
        return cls(parsed, taken)


def fit_pca(config: PcaConfig, images: ImageSet) -> Pca:
    """The principal components of the images' patches (of a fixed sample of about a million), in float64.

    The sign of a component is such that its entry of largest magnitude is positive.

    Raises:
        InputError: the factor does not divide the images' sides; more channels than values in a patch.
    """
    patch_code_shape(images.image_shape, config.factor, config.channels)
    mean, covariance = _moments(images, config.factor)
    variances, vectors = torch.linalg.eigh(covariance)
    basis = vectors.T.flip(0)[: config.channels]
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    scale = channel_scales(variances.flip(0)[: config.channels].clamp_min(0), config.scaling)
    patch = (images.image_shape[0], config.factor, config.factor)
    tensors = {"basis": (basis * largest.sign()).reshape(-1, *patch), "mean": mean.reshape(patch), "scale": scale}
    spec = PcaSpec(image_shape=images.image_shape, **config.model_dump())
    return Pca(spec, {name: tensor.float().contiguous() for name, tensor in tensors.items()})


def _moments(images: ImageSet, factor: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance (over n, not n - 1) of the patches, summed over blocks."""
    values = images.image_shape[0] * factor * factor
    total, products, count = torch.zeros(values).double(), torch.zeros(values, values).double(), 0
    for block in patch_blocks(images, factor):
        total += block.sum(0)
        products += block.T @ block
        count += len(block)
    if not count:
        raise InputError("there are no images to fit the pca codec on; give at least one")
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
