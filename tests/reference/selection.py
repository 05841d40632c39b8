"""Key samples one image and one crop at a time, in float64 (LIC Algorithm 1, stage 1; RDED's crops)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.reference.tiling import literal_resize
from torch import Tensor


def literal_loss(logits: Sequence[float], label: int) -> float:
    """Minus the logarithm of the softmax, each class shifted by the largest logit."""
    largest = max(logits)
    return math.log(sum(math.exp(value - largest) for value in logits)) - (logits[label] - largest)


def literal_crop(image: Tensor, box: Sequence[float]) -> Tensor:
    """The box (top, left, height, width, as fractions) at the image's own size."""
    _, height, width = image.shape
    top, left = round(box[0] * height), round(box[1] * width)
    high, wide = round(box[2] * height), round(box[3] * width)
    return literal_resize(image[:, top : top + high, left : left + wide], height, width)


def literal_key_samples(
    logits: Callable[[Tensor], Sequence[float]],
    pools: Sequence[Sequence[Tensor]],
    boxes: Sequence[Sequence[Sequence[Sequence[float]]]] | None,
    count: int,
    hardest: bool = False,
) -> list[list[tuple[int, int]]]:
    """For each class its `count` best images as (place in the pool, crop), the best first.

    Args:
        logits: of one image.
        pools: for each class its images.
        boxes: for each class and image its crops; None ranks whole images.
    """
    chosen = []
    for label, pool in enumerate(pools):
        ranked = []
        for place, image in enumerate(pool):
            seen = [image] if boxes is None else [literal_crop(image, box) for box in boxes[label][place]]
            scores = [-literal_loss(logits(one), label) * (-1 if hardest else 1) for one in seen]
            best = max(range(len(scores)), key=lambda crop: scores[crop])
            ranked.append((scores[best], place, best))
        ranked.sort(key=lambda entry: -entry[0])
        chosen.append([(place, crop) for _, place, crop in ranked[:count]])
    return chosen
