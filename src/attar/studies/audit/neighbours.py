"""Nearest real images of distilled ones, in several spaces, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet, Splits
from attar.models.codecs.codec import Codec
from attar.models.networks.network import Network
from attar.sets.distilled import DistilledSet

BLOCK_VALUES = 1 << 24
LEVELS = 255.0


@dataclass(frozen=True)
class Space:
    """Where distances are taken: the root of the mean squared difference of values.

    Args:
        name: of the space.
        unit: of a distance.
        scale: units in a difference of 1.
        of: images [B, C, H, W] in [0, 1] on the device -> values [B, F].
        queries: of every distilled image and, with `mirrored`, after them of every one mirrored, [M or 2 M, F].
        mirrored: whether mirrored images are looked for.
        searched: whether copies are looked for, so that distilled images are compared with all real ones too.
    """

    name: str
    unit: str
    scale: float
    of: Callable[[Tensor], Tensor]
    queries: Float[Tensor, "queries values"]
    mirrored: bool
    searched: bool = True


@dataclass(frozen=True)
class Nearest:
    """The nearest of some real images.

    Args:
        distances: float64 [Q], in the space's unit.
        indices: int64 [Q], places in the real images.
        mirrored: bool [Q], whether the mirrored query is the nearer one.
    """

    distances: Float[Tensor, " queries"]
    indices: Int64[Tensor, " queries"]
    mirrored: Tensor


def pixel_space(images: Float[Tensor, "items C H W"], mirror: bool) -> Space:
    """Pixels, in 8-bit levels.

    Args:
        images: the distilled ones, in [0, 1].
        mirror: look for mirrored images too.
    """

    def centred(batch: Tensor) -> Tensor:
        return batch.flatten(1) - 0.5  # as far from 0 as need be: distances are differences of squares

    return Space("pixels", "8-bit levels", LEVELS, centred, _both(centred, images, mirror), mirror)


def feature_space(
    images: Float[Tensor, "items C H W"], mirror: bool, network: Network, preprocess: Codec, name: str
) -> Space:
    """What a network's last layer sees; images and network are on one device, the network in evaluation mode."""

    @torch.no_grad()
    def features(batch: Tensor) -> Tensor:
        size = max(1, BLOCK_VALUES // 16 // batch[0].numel())
        return torch.cat([network.features(preprocess.encode(part)).float() for part in batch.split(size)])

    return Space(name, "of a feature", 1.0, features, _both(features, images, mirror), mirror, searched=False)


def _both(of: Callable[[Tensor], Tensor], images: Tensor, mirror: bool) -> Tensor:
    return torch.cat([of(images), of(images.flip(3))]) if mirror else of(images)


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


def nearest(
    space: Space, real: ImageSet, places: Int64[Tensor, " places"], device: torch.device, progress: Progress
) -> Nearest:
    """The nearest of the real images at `places` for each distilled image."""
    best, found = _nearest(space, real, places, device, progress)
    if not space.mirrored:
        return Nearest(best, found, torch.zeros(len(best), dtype=torch.bool))
    count = len(best) // 2
    turned = best[count:] < best[:count]
    distances = torch.where(turned, best[count:], best[:count])
    return Nearest(distances, torch.where(turned, found[count:], found[:count]), turned)


def nearest_of_images(
    space: Space,
    images: ImageSet,
    chosen: Int64[Tensor, " queries"],
    real: ImageSet,
    device: torch.device,
    progress: Progress,
) -> Float[Tensor, " queries"]:
    """The distance from each of the chosen images, mirrored where distilled ones are, to the nearest of all `real`."""
    batch = images.images[chosen].to(device).float() / LEVELS
    asked = replace(space, queries=_both(space.of, batch, space.mirrored))
    return nearest(asked, real, torch.arange(len(real)), device, progress).distances


def equal_parts(splits: Splits, most: int, seed: int) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Places of equally many training and held-out images: of each class as many as both parts have.

    Args:
        splits: both parts.
        most: images of each part, about.
        seed: of the draw.
    """
    chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
    share = max(1, most // splits.train.num_classes)
    for label in range(splits.train.num_classes):
        members = [part.class_indices[label] for part in (splits.train, splits.test)]
        count = min(share, *(len(each) for each in members))
        for part, each, places in zip(("train", "test"), members, chosen, strict=True):
            places.append(each[torch.randperm(len(each), generator=generator(seed, "audit", part, label))[:count]])
    return torch.cat(chosen[0]), torch.cat(chosen[1])


@torch.no_grad()
def _nearest(
    space: Space, real: ImageSet, places: Tensor, device: torch.device, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Smallest distance and its place for each query; by differences of squares, the winner's again by itself."""
    queries = space.queries
    best = torch.full((len(queries),), torch.inf, device=device)
    winner = torch.zeros(len(queries), dtype=torch.int64, device=device)
    squares = queries.square().sum(1)
    size = max(1, BLOCK_VALUES // max(queries.shape[1], len(queries), real.images[0].numel()))
    for block in places.split(size):
        values = space.of(real.images[block].to(device).float() / LEVELS)
        distances = squares[:, None] + values.square().sum(1) - 2 * queries @ values.T
        lowest, column = distances.min(1)
        better = lowest < best
        best = torch.where(better, lowest, best)
        winner = torch.where(better, block.to(device)[column], winner)
        progress.advance(len(block))
    exact = torch.empty(len(queries), dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(size):
        values = space.of(real.images[winner[rows].cpu()].to(device).float() / LEVELS)
        exact[rows] = (queries[rows] - values).double().square().mean(1).sqrt().cpu() * space.scale
    return exact, winner.cpu()
