"""Merging, written out: moments of a union in float64, and labels class by class."""

from __future__ import annotations

import numpy as np


def union_moments(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over the images [N, C, H, W] of all parts, value by value."""
    every = np.concatenate([part.astype(np.float64) / 255 for part in parts])
    channels = every.transpose(1, 0, 2, 3).reshape(every.shape[1], -1)
    return channels.mean(1), channels.std(1)


def lifted_probabilities(logits: np.ndarray, own: list[str], every: list[str]) -> np.ndarray:
    """Softmax over a part's own classes, and 0 for all others, item by item and class by class."""
    found = np.zeros((len(logits), len(every)))
    for item, row in enumerate(logits.astype(np.float64)):
        powers = np.exp(row - row.max())
        for place, name in enumerate(own):
            found[item, every.index(name)] = powers[place] / powers.sum()
    return found


def pooled_rate(num_items: list[int], rates: list[float]) -> float:
    """The product of all items' rates, to the power of one over their number."""
    product = 1.0
    for count, rate in zip(num_items, rates, strict=True):
        product *= rate ** (count / sum(num_items))
    return product
