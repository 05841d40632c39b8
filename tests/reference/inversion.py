"""SRe2L's recovery loss of one group as it is written: an image at a time, a channel at a time, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tests.reference.compensation import literal_enlarge
from tests.reference.observer import LiteralObserver
from torch import Tensor


def literal_view(image: Tensor, box: tuple[int, int, int, int], flipped: bool, shifts: tuple[int, int]) -> Tensor:
    """Crop and enlarge, flip, shift cyclically; one image [C, H, W]."""
    _, height, width = image.shape
    top, left, bottom, right = box
    image = literal_enlarge(image[:, top:bottom, left:right], height, width)
    columns = [(column - shifts[1]) % width for column in range(width)]
    rows = [(row - shifts[0]) % height for row in range(height)]
    image = image[:, :, [width - 1 - column for column in range(width)]] if flipped else image
    return image[:, rows][:, :, columns]


def literal_inversion(
    observer: LiteralObserver, images: Sequence[Tensor], labels: Sequence[int], r_bn: float, first_factor: float
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, and r_bn times the weighted distances of means and variances; images as they are seen."""
    entropy = torch.zeros((), dtype=torch.float64)
    entering: list[list[Tensor]] = [[] for _ in range(observer.depth)]
    for image, label in zip(images, labels, strict=True):
        seen, _, logits = observer.passed(observer.normalised(image))
        entropy = entropy - torch.log(torch.exp(logits[label]) / torch.exp(logits).sum()) / len(images)
        for layer, inputs in enumerate(seen):
            entering[layer].append(inputs)
    gap = torch.zeros((), dtype=torch.float64)
    for layer in range(observer.depth):
        running_mean, running_variance = observer.running(layer)
        of_means, of_variances = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for channel in range(len(running_mean)):
            values = torch.cat([inputs[channel].flatten() for inputs in entering[layer]])
            mean = values.sum() / len(values)
            of_means = of_means + (mean - running_mean[channel]) ** 2
            of_variances = of_variances + (((values - mean) ** 2).mean() - running_variance[channel]) ** 2
        gap = gap + (first_factor if layer == 0 else 1.0) * (torch.sqrt(of_means) + torch.sqrt(of_variances))
    return entropy, r_bn * gap
