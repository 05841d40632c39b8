"""Codecs written out literally, in float64 and slowly: what the fast ones must agree with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def patch_rows(images: Tensor, factor: int) -> Tensor:
    """Every patch as a row, by slicing: images in order, patches row by row, values as (colour, y, x)."""
    rows = []
    for image in images.double():
        for top in range(0, image.shape[1], factor):
            for left in range(0, image.shape[2], factor):
                rows.append(image[:, top : top + factor, left : left + factor].reshape(-1))
    return torch.stack(rows)


def dct_coefficient(patch: Tensor, direction: Tensor, u: int, v: int) -> float:
    """One DCT-II coefficient of one patch [C, f, f] along one colour direction, summed term by term."""
    factor = patch.shape[-1]
    total = 0.0
    for c in range(patch.shape[0]):
        for y in range(factor):
            for x in range(factor):
                wave = math.cos(math.pi * (2 * y + 1) * u / (2 * factor))
                wave *= math.cos(math.pi * (2 * x + 1) * v / (2 * factor))
                total += float(direction[c]) * float(patch[c, y, x]) * wave
    amplitude = [math.sqrt((1 if k == 0 else 2) / factor) for k in (u, v)]
    return total * amplitude[0] * amplitude[1]


def zca(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Whitened images (float64, flattened) and the whitening matrix, as kornia's ZCA of normalised images gives them.

    normalise each channel; subtract the mean image; covariance over n - 1; W = U (S + epsilon)^-1/2 U^T by the SVD.
    """
    images = images.double()
    mean = images.mean((0, 2, 3), keepdim=True)
    std = images.var((0, 2, 3), keepdim=True, unbiased=False).sqrt()
    flat = ((images - mean) / std).flatten(1)
    flat = flat - flat.mean(0, keepdim=True)
    covariance = flat.T @ flat / (len(flat) - 1)
    u, s, _ = torch.linalg.svd(covariance)
    matrix = u @ torch.diag(1 / torch.sqrt(s + epsilon)) @ u.T
    return flat @ matrix, matrix
