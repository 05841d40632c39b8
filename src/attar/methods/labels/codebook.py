"""Logits in a few bytes: product quantisation, searched by what it does to the probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.shapes import Float, Int64

ENTRIES = 256  # as many as one byte tells apart
MOST_FITTED = 2**16  # labels that codebooks are fitted to, rounded up to whole epochs
LLOYD_STEPS, LLOYD_ROWS = 10, 2**14
SWEEPS = 3
CHUNK_ROWS = 4096
# Directions with a smaller share of the largest one's spread earn no bytes.
SMALLEST_SPREAD = 1e-4


@dataclass(frozen=True)
class Codebook:
    """Logits as a mean and one entry of each of G groups, along directions that the group has to itself.

        logits = mean + sum_g directions_g entries_g[code_g]

    Args:
        mean: float32 [K].
        directions: float32 [K, G w], w columns for each group after another.
        entries: float32 [G, 256, w].

    Source: Jegou, Douze & Schmid 2011 (product quantisation).
    Deviation: codes are searched for together, and errors weighed by the probabilities (`encode`); a quarter of the
        divergence that the nearest entries leave.
    """

    mean: Float[Tensor, " classes"]
    directions: Float[Tensor, "classes columns"]
    entries: Float[Tensor, "groups entries width"]

    def decode(self, codes: Int64[Tensor, "labels groups"]) -> Float[Tensor, "labels classes"]:
        """The logits behind codes from 0 to 255, up to a constant for each label."""
        groups = torch.arange(len(self.entries), device=codes.device)
        return self.mean + self.entries[groups, codes].flatten(1) @ self.directions.T

    @torch.no_grad()
    def encode(self, logits: Float[Tensor, "labels classes"]) -> Int64[Tensor, "labels groups"]:
        """The codes whose probabilities are nearest.

        From the nearest entries, group after group takes the one that is best beside those of the others, three times
        over, by

            KL(p || q) ~ 1/2 Var_p(error of the logits),   p = softmax(logits)

        which is no guide where errors are large: where the nearest entries have the smaller divergence, they stay.
        """
        return torch.cat([self._codes(part) for part in centred(logits).split(CHUNK_ROWS)])

    def _codes(self, logits: Tensor) -> Tensor:
        width = self.entries.shape[2]
        weights, directions = logits.softmax(1), self.directions.split(width, dim=1)
        projected = ((logits - self.mean) @ self.directions).split(width, dim=1)
        pairs = zip(projected, self.entries, strict=True)
        nearest = torch.stack([torch.cdist(points, entries).argmin(1) for points, entries in pairs], 1)
        codes, decoded = nearest.clone(), self.decode(nearest)
        for _ in range(SWEEPS):
            for group, axes in enumerate(directions):
                entries = self.entries[group]
                others = decoded - entries[codes[:, group]] @ axes.T
                codes[:, group] = best_entries(logits - others, weights, axes, entries)
                decoded = others + entries[codes[:, group]] @ axes.T
        worse = divergence(logits, decoded) > divergence(logits, self.decode(nearest))
        return torch.where(worse.unsqueeze(1), nearest, codes)


def centred(logits: Float[Tensor, "labels classes"]) -> Float[Tensor, "labels classes"]:
    """The logits less their mean, which softmax does not see."""
    return logits - logits.mean(1, keepdim=True)


def divergence(
    logits: Float[Tensor, "labels classes"], other: Float[Tensor, "labels classes"]
) -> Float[Tensor, " labels"]:
    """KL(softmax(logits) || softmax(other)) of each label, in nats."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * (log_p - other.log_softmax(1))).sum(1)


@torch.no_grad()
def fit_codebook(logits: Float[Tensor, "labels classes"], num_groups: int, generator: torch.Generator) -> Codebook:
    """Codebooks for labels like these, rounded to float16 as they are stored.

    Principal directions are dealt to the groups so that each has about the same share of the spread; k-means gives the
    entries.

    Args:
        logits: float32 [N, K], on the device to work on.
        num_groups: G, codes of a label, one byte each; 1 <= G <= K.
        generator: on the CPU.
    """
    logits = centred(logits)
    num_classes = logits.shape[1]
    width = -(-num_classes // num_groups)
    mean = logits.mean(0)
    spread, axes = torch.linalg.eigh((logits - mean).T @ (logits - mean) / len(logits))
    directions = logits.new_zeros(num_classes, num_groups * width)
    for group, members in enumerate(_deal(spread.flip(0).tolist(), num_groups, width)):
        directions[:, group * width : group * width + len(members)] = axes.flip(1)[:, members]
    sample = torch.randperm(len(logits), generator=generator)[:LLOYD_ROWS].to(logits.device)
    projected = ((logits[sample] - mean) @ directions).split(width, dim=1)
    entries = torch.stack([_k_means(points) for points in projected])
    # Rounded here, so that codes are searched with the entries that a file will hold.
    return Codebook(*(tensor.half().float() for tensor in (mean, directions, entries)))


def best_entries(
    target: Float[Tensor, "labels classes"],
    weights: Float[Tensor, "labels classes"],
    directions: Float[Tensor, "classes width"],
    entries: Float[Tensor, "entries width"],
) -> Int64[Tensor, " labels"]:
    """The entry c of each label for which Var_weights(target - directions c) is least, by matrix products alone."""
    # Var(t - D c) = c' S c - 2 c' p + const, with S the covariance of the directions D and p theirs with the target t.
    width = directions.shape[1]
    pairs = (directions.unsqueeze(2) * directions.unsqueeze(1)).flatten(1)
    mean = weights @ directions
    spread = (weights @ pairs).view(-1, width, width) - mean.unsqueeze(2) * mean.unsqueeze(1)
    weighted = weights * target
    pull = weighted @ directions - weighted.sum(1, keepdim=True) * mean
    squares = (entries.unsqueeze(2) * entries.unsqueeze(1)).flatten(1)
    return (spread.flatten(1) @ squares.T - 2 * pull @ entries.T).argmin(1)


def _deal(spread: list[float], num_groups: int, width: int) -> list[list[int]]:
    """Deal directions, at most `width` to a group, the next one always to the group with the least spread so far."""
    floor = max(max(spread) * SMALLEST_SPREAD, 1e-12)
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    log_spread = [0.0] * num_groups
    # Bits pay by the logarithm of the spread, so that groups share out the product of spreads evenly.
    for direction, variance in enumerate(spread):
        open_groups = (group for group in range(num_groups) if len(groups[group]) < width)
        group = min(open_groups, key=log_spread.__getitem__)
        groups[group].append(direction)
        log_spread[group] += math.log1p(max(variance, 0.0) / floor)
    return groups


def _k_means(points: Float[Tensor, "points width"]) -> Float[Tensor, "entries width"]:
    """256 centres. They begin as the first points, repeated where there are fewer than 256."""
    centres = points[torch.arange(ENTRIES, device=points.device) % len(points)]
    for _ in range(LLOYD_STEPS):
        nearest = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=ENTRIES).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
