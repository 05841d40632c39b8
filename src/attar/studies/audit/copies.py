"""Which distilled images are real ones: equal up to rounding, or far nearer than strangers ever are."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.sets.distilled import DistilledSet
from attar.studies.audit.neighbours import BLOCK_VALUES, LEVELS, Nearest, Space
from attar.studies.audit.record import Copy, Limit, Part
from attar.studies.audit.statistics import binomial_interval, quantiles_of_others

QUANTILE = 0.01
FACTOR = 0.5
VERBATIM_LEVELS = 1
"""Two roundings: to what is stored, which for int8 pixels is at most 1.004 levels, and to 8 bits."""


def copy_limit(space: Space, strangers: Float[Tensor, " heldout"]) -> Limit:
    """The limit that held-out images give, none of which is a copy unless the data holds it twice.

        limit = 0.5 q,   q the 1 % quantile of the distances from held-out images to the nearest training image

    Args:
        space: of the distances.
        strangers: the distances.

    Source: ours. Half of a low quantile, because distances of unrelated images thin out fast below it, and because
        images that a data set holds twice, as CIFAR-10 does, lie there: they make the limit smaller, never larger.
    """
    distance = FACTOR * float(strangers.quantile(QUANTILE))
    # Each is judged by the others: its own distance, were it small, would make the limit smaller.
    alarms = int((strangers < FACTOR * quantiles_of_others(strangers, QUANTILE)).sum())
    low, high = binomial_interval(alarms, len(strangers))
    return Limit(
        space=space.name,
        unit=space.unit,
        distance=distance,
        quantile=QUANTILE,
        factor=FACTOR,
        num_heldout=len(strangers),
        median=float(strangers.median()),
        alarms=alarms,
        low=low,
        high=high,
    )


def find_copies(
    distilled: DistilledSet,
    images: Float[Tensor, "items C H W"],
    part: Part,
    real: ImageSet,
    found: list[tuple[Space, Nearest, Limit]],
) -> list[Copy]:
    """Each distilled image that is a copy, once: verbatim where it is, else in the space where it is nearest.

    Args:
        distilled: the set.
        images: of its items.
        part: of the real data.
        real: the images of that part.
        found: spaces with the nearest of all these images; pixels first.
    """
    pixels = found[0][1]
    differing = _levels_apart(images, real, pixels)
    classes = [distilled.classes[label] for label in distilled.labels.tolist()]
    copies = []
    for item in range(len(images)):
        below = [
            (float(near.distances[item]) / limit.distance, space, near)
            for space, near, limit in found
            if float(near.distances[item]) < limit.distance
        ]
        verbatim = int(differing[item]) <= VERBATIM_LEVELS
        if not below and not verbatim:
            continue
        space, near = (found[0][0], pixels) if verbatim else min(below, key=lambda each: each[0])[1:]
        index = int(near.indices[item])
        copies.append(
            Copy(
                item=item,
                item_class=classes[item],
                part=part,
                index=index,
                image_class=real.classes[int(real.labels[index])],
                kind="verbatim" if verbatim else "near",
                space=space.name,
                distance=float(near.distances[item]),
                mirrored=bool(near.mirrored[item]),
            )
        )
    return copies


def _levels_apart(images: Tensor, real: ImageSet, near: Nearest) -> Tensor:
    """[M], the largest difference of a value in 8-bit levels between each image and its neighbour."""
    apart = []
    for items in torch.arange(len(images)).split(max(1, BLOCK_VALUES // images[0].numel())):
        block = images[items]
        turned = torch.where(near.mirrored[items, None, None, None], block.flip(3), block)
        own = (turned.clamp(0, 1) * LEVELS).round().to(torch.int16)
        apart.append((own - real.images[near.indices[items]].to(torch.int16)).abs().flatten(1).amax(1))
    return torch.cat(apart)
