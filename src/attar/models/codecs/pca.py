"""Patch PCA: the principal components of a data set's own patches, fitted in seconds, nothing to download."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.models.codecs.patches import PatchCodec, PatchConfig, channel_scales, patch_blocks, patch_code_shape
from attar.models.codecs.restoring import CodecSpec, parse_spec, require_positive, take_tensors


class PcaConfig(PatchConfig):
    """Patches become coefficients on their principal components, those of largest variance."""

    kind: Literal["pca"] = "pca"
    names = ("pca",)

    def fit(self, images: ImageSet) -> Pca:
        """The principal components of the images' patches (of a fixed sample of about a million), in float64.

        The sign of a component is such that its entry of largest magnitude is positive.

        Raises:
            InputError: no images; the factor does not divide their sides; more channels than values in a patch.
        """
        patch_code_shape(images.image_shape, self.factor, self.channels)
        mean, covariance = _moments(images, self.factor)
        variances, vectors = torch.linalg.eigh(covariance)
        basis = vectors.T.flip(0)[: self.channels]
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        scale = channel_scales(variances.flip(0)[: self.channels].clamp_min(0), self.scaling)
        patch = (images.image_shape[0], self.factor, self.factor)
        tensors = {"basis": (basis * largest.sign()).reshape(-1, *patch), "mean": mean.reshape(patch), "scale": scale}
        spec = PcaSpec(image_shape=images.image_shape, **self.model_dump())
        return Pca(spec, **{name: tensor.float().contiguous() for name, tensor in tensors.items()})


class PcaSpec(CodecSpec, PcaConfig):
    """A fitted PcaConfig."""


class Pca(PatchCodec):
    """Principal components of non-overlapping patches; a file stores the components, the mean patch and the scales."""

    kind = "pca"

    def stored_tensors(self) -> dict[str, Tensor]:
        return {"basis": self.basis.cpu(), "mean": self.mean.cpu(), "scale": self.scale.cpu()}

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Pca:
        parsed = parse_spec(PcaSpec, spec)
        patch_code_shape(parsed.image_shape, parsed.factor, parsed.channels)
        patch = (parsed.image_shape[0], parsed.factor, parsed.factor)
        shapes = {"basis": (parsed.channels, *patch), "mean": patch, "scale": (parsed.channels,)}
        take_tensors(tensors, shapes)
        require_positive("scale", tensors["scale"])
        rows = tensors["basis"].flatten(1).double()
        if not torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-4):
            raise InputError("the codec's tensor 'basis' is not orthonormal; the file is damaged")
        return cls(parsed, **tensors)


def _moments(images: ImageSet, factor: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance (over n, not n - 1) of the patches, summed over blocks."""
    values = images.image_shape[0] * factor * factor
    total, products, count = torch.zeros(values).double(), torch.zeros(values, values).double(), 0
    for block in patch_blocks(images, factor):
        total += block.sum(0)
        products += block.T @ block
        count += len(block)
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
