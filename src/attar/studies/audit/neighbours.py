"""Nearest real images of distilled ones in several spaces, and which distilled images are copies of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.statistics import CONFIDENCE
from attar.models.codecs.codec import Codec
from attar.models.networks.network import Network
from attar.sets.distilled import DistilledSet
from attar.studies.audit.card import Copy, Limit, Neighbours, Part

BLOCK_VALUES = 1 << 24
LEVELS = 255.0
QUANTILE = 0.01
FACTOR = 0.5
VERBATIM_LEVELS = 1
"""Two roundings: to what is stored, which for int8 pixels is at most 1.004 levels, and to 8 bits."""


@dataclass(frozen=True)
class Space:
    """Where distances are taken: the root of the mean squared difference of values.

    Args:
        name: of the space.
        unit: of a distance.
        scale: units in a difference of 1.
        values: images [B, C, H, W] in [0, 1] on the device -> values [B, F].
        queries: of every distilled image and, with `mirrored`, after them of every one mirrored, [M or 2 M, F].
        mirrored: whether mirrored images are looked for.
        searched: whether copies are looked for, so that distilled images are compared with all real ones too.
    """

    name: str
    unit: str
    scale: float
    values: Callable[[Tensor], Tensor]
    queries: Float[Tensor, "queries values"]
    mirrored: bool
    searched: bool = True


@dataclass(frozen=True)
class Nearest:
    """For each distilled image its nearest among some real ones.

    Args:
        num_real: real images compared with.
        distances: float64 [M], in the space's unit.
        indices: int64 [M], places in the real images.
        mirrored: bool [M], whether the mirrored distilled image is the nearer one.
    """

    num_real: int
    distances: Float[Tensor, " queries"]
    indices: Int64[Tensor, " queries"]
    mirrored: Tensor


@dataclass(frozen=True)
class Comparison:
    """The nearest of all real images of both parts in one space, and the limit for copies there."""

    space: Space
    nearest: Mapping[Part, Nearest]
    limit: Limit


def pixel_space(images: Float[Tensor, "items C H W"], mirror: bool) -> Space:
    """Pixels in 8-bit levels; `images` are the distilled ones, in [0, 1]."""

    def centred(batch: Tensor) -> Tensor:
        return batch.flatten(1) - 0.5  # small values, because distances are differences of their squares

    return Space("pixels", "8-bit levels", LEVELS, centred, _queries(centred, images, mirror), mirror)


def feature_space(
    images: Float[Tensor, "items C H W"], mirror: bool, network: Network, preprocess: Codec, name: str
) -> Space:
    """What the last layer of a network sees; all is on one device, the network in evaluation mode."""

    @torch.no_grad()
    def features(batch: Tensor) -> Tensor:
        size = max(1, BLOCK_VALUES // 16 // batch[0].numel())
        return torch.cat([network.features(preprocess.encode(part)).float() for part in batch.split(size)])

    return Space(name, "of a feature", 1.0, features, _queries(features, images, mirror), mirror, searched=False)


def code_space(distilled: DistilledSet, device: torch.device) -> Space | None:
    """The codes as stored, where they are one code for each item of a codec that is no list of pixels; else None."""
    shards = distilled.manifest.shards
    if len(shards) > 1 or shards[0].parameterization.get("kind") != "codes":
        return None
    codec = distilled.parameterizations()[0].codec
    if not codec.latent:
        return None
    moved = codec.to(device)

    @torch.no_grad()
    def encoded(batch: Tensor) -> Tensor:
        return moved.encode(batch).flatten(1)

    return Space("codes", "of a code's value", 1.0, encoded, distilled.codes.flatten(1).to(device), False)


def _queries(values: Callable[[Tensor], Tensor], images: Tensor, mirror: bool) -> Tensor:
    return torch.cat([values(images), values(images.flip(3))]) if mirror else values(images)


def equal_parts(splits: Splits, most: int, seed: int) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Places of equally many training and held-out images: of each class as many as both have, about `most` in all."""
    share = max(1, most // splits.train.num_classes)
    members_of_both = zip(splits.train.class_indices, splits.test.class_indices, strict=True)
    counts = [min(share, len(train), len(test)) for train, test in members_of_both]

    def drawn(part: Part, images: ImageSet) -> Tensor:
        places = []
        for label, (members, count) in enumerate(zip(images.class_indices, counts, strict=True)):
            places.append(
                members[torch.randperm(len(members), generator=generator(seed, "audit", part, label))[:count]]
            )
        return torch.cat(places)

    return drawn("train", splits.train), drawn("test", splits.test)


@torch.no_grad()
def nearest(space: Space, real: ImageSet, places: Int64[Tensor, " places"], progress: Progress) -> Nearest:
    """The nearest of the real images at `places` for each distilled image.

    The winners are found block by block from |a|^2 + |b|^2 - 2 ab; their distances are then taken without cancellation.
    """
    queries, device = space.queries, space.queries.device
    best = torch.full((len(queries),), torch.inf, device=device)
    winner = torch.zeros(len(queries), dtype=torch.int64, device=device)
    squares = queries.square().sum(1)
    size = max(1, BLOCK_VALUES // max(queries.shape[1], len(queries), real.images[0].numel()))
    for block in places.split(size):
        values = space.values(real.images[block].to(device).float() / LEVELS)
        distances = squares[:, None] + values.square().sum(1) - 2 * queries @ values.T
        lowest, column = distances.min(1)
        better = lowest < best
        best = torch.where(better, lowest, best)
        winner = torch.where(better, block.to(device)[column], winner)
        progress.advance(len(block))
    winner = winner.cpu()
    exact = torch.empty(len(queries), dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(size):
        values = space.values(real.images[winner[rows]].to(device).float() / LEVELS)
        exact[rows] = (queries[rows] - values).double().square().mean(1).sqrt().cpu() * space.scale
    if not space.mirrored:
        return Nearest(len(places), exact, winner, torch.zeros(len(exact), dtype=torch.bool))
    (plain, turned), (plain_winner, turned_winner) = exact.chunk(2), winner.chunk(2)
    mirrored = turned < plain
    indices = torch.where(mirrored, turned_winner, plain_winner)
    return Nearest(len(places), torch.where(mirrored, turned, plain), indices, mirrored)


def compared(space: Space, train: Nearest, heldout: Nearest) -> Neighbours:
    """How often training images are nearer, and how likely that is where the parts are exchangeable.

    Source: where real images are exchangeable, the nearest of all is a training image with probability
        num_train / (num_train + num_heldout); distilled images with the same neighbour fall together.
    """
    expected = train.num_real / (train.num_real + heldout.num_real)
    nearer, farther = train.distances < heldout.distances, train.distances > heldout.distances
    count, hits = int((nearer | farther).sum()), int(nearer.sum())
    shared = [
        *torch.unique(train.indices[nearer], return_counts=True)[1].tolist(),
        *torch.unique(heldout.indices[farther], return_counts=True)[1].tolist(),
    ]
    low, high = binomial_interval(hits, count) if count else (None, None)
    return Neighbours(
        space=space.name,
        unit=space.unit,
        num_train=train.num_real,
        num_heldout=heldout.num_real,
        expected=expected,
        nearer=hits,
        ties=len(nearer) - count,
        low=low,
        high=high,
        p_value=tail_probability(shared, expected, hits),
        train_indices=tuple(train.indices.tolist()),
        heldout_indices=tuple(heldout.indices.tolist()),
        train_distances=tuple(train.distances.tolist()),
        heldout_distances=tuple(heldout.distances.tolist()),
    )


def strangers_distances(
    space: Space, splits: Splits, places: Int64[Tensor, " heldout"], progress: Progress
) -> Float[Tensor, " heldout"]:
    """From each held-out image at `places`, mirrored where distilled ones are, to the nearest training image."""
    images = splits.test.images[places].to(space.queries.device).float() / LEVELS
    strangers = replace(space, queries=_queries(space.values, images, space.mirrored))
    return nearest(strangers, splits.train, torch.arange(len(splits.train)), progress).distances


def copy_limit(space: Space, strangers: Float[Tensor, " heldout"]) -> Limit:
    """The limit that held-out images give, none of which is a copy unless the data holds it twice.

        limit = 0.5 q,   q the 1 % quantile of the distances from held-out images to the nearest training image

    Source: ours. Half of a low quantile, because distances of unrelated images thin out fast below it, and because
        images that a data set holds twice, as CIFAR-10 does, lie there: they make the limit smaller, never larger.
    """
    # Each is judged by the others: its own distance, were it small, would make the limit smaller.
    alarms = int((strangers < FACTOR * quantiles_of_others(strangers, QUANTILE)).sum())
    low, high = binomial_interval(alarms, len(strangers))
    return Limit(
        space=space.name,
        unit=space.unit,
        distance=FACTOR * float(strangers.quantile(QUANTILE)),
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
    comparisons: Sequence[Comparison],
) -> list[Copy]:
    """Each distilled image that is a copy, once: verbatim where it is, else in the space where it is nearest.

    Args:
        distilled, images: the set, and the images of its items.
        part, real: of the real data.
        comparisons: in pixels first.
    """
    differences = _largest_differences(images, real, comparisons[0].nearest[part])
    copies = []
    for item, (label, difference) in enumerate(zip(distilled.labels.tolist(), differences.tolist(), strict=True)):
        verbatim = difference <= VERBATIM_LEVELS
        distances = [float(comparison.nearest[part].distances[item]) for comparison in comparisons]
        below = [
            (distance / comparison.limit.distance, place)
            for place, (distance, comparison) in enumerate(zip(distances, comparisons, strict=True))
            if distance < comparison.limit.distance
        ]
        if not below and not verbatim:
            continue
        where = comparisons[0 if verbatim else min(below)[1]]
        neighbour = where.nearest[part]
        index = int(neighbour.indices[item])
        copies.append(
            Copy(
                item=item,
                item_class=distilled.classes[label],
                part=part,
                index=index,
                image_class=real.classes[int(real.labels[index])],
                kind="verbatim" if verbatim else "near",
                space=where.space.name,
                distance=float(neighbour.distances[item]),
                mirrored=bool(neighbour.mirrored[item]),
            )
        )
    return copies


def _largest_differences(images: Tensor, real: ImageSet, near: Nearest) -> Int64[Tensor, " items"]:
    """In 8-bit levels, over the values of each image and its neighbour."""
    largest = []
    for items in torch.arange(len(images)).split(max(1, BLOCK_VALUES // images[0].numel())):
        block = images[items]
        turned = torch.where(near.mirrored[items, None, None, None], block.flip(3), block)
        levels = (turned.clamp(0, 1) * LEVELS).round().to(torch.int16)
        largest.append((levels - real.images[near.indices[items]].to(torch.int16)).abs().flatten(1).amax(1))
    return torch.cat(largest)


def binomial_interval(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of a share of `hits` in `trials`, of which there is at least one.

    Source: Clopper & Pearson 1934.
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(low), float(high)


def tail_probability(weights: Sequence[int], share: float, observed: int) -> float:
    """The probability that a sum of weights reaches what was observed, when each counts with one probability.

        P(sum_u w_u b_u >= observed),   b_u independent, P(b_u = 1) = share

    Exact: the binomial law of the number of each distinct weight, convolved with those of the other weights.
    """
    from scipy.stats import binom

    law = np.ones(1)
    for weight, number in sorted(Counter(weights).items()):
        spaced = np.zeros(weight * number + 1)
        spaced[::weight] = binom.pmf(np.arange(number + 1), number, share)
        law = np.convolve(law, spaced)
    return min(1.0, float(law[observed:].sum()))


def quantiles_of_others(values: Float[Tensor, " values"], share: float) -> Float[Tensor, " values"]:
    """For each value the quantile of all others, in O(N^2) memory; for a single value itself."""
    count = len(values)
    if count == 1:
        return values.clone()
    others = values.expand(count, count)[~torch.eye(count, dtype=torch.bool)]
    return others.view(count, count - 1).quantile(share, dim=1)
