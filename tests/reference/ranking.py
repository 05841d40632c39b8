"""DD-Ranking's scores and the EL2N score, literally and in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def el2n(logits: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean over networks of || softmax(z) - onehot(y) ||, image by image."""
    scores = np.zeros(len(labels))
    for index, label in enumerate(labels):
        for network in logits:
            exponentials = [math.exp(float(value)) for value in network[index]]
            errors = [value / sum(exponentials) - (place == label) for place, value in enumerate(exponentials)]
            scores[index] += math.sqrt(sum(error**2 for error in errors)) / len(logits)
    return scores


def normalised(alpha: float) -> float:
    """(e^alpha - e^-1) / (e - e^-1)."""
    return (math.e**alpha - math.e**-1) / (math.e - math.e**-1)


def label_robust(full: float, hard: float, own: float, random: float, weight: float) -> float:
    """alpha of LRS: w (own - random) - (1 - w) (full - hard)."""
    return weight * (own - random) - (1 - weight) * (full - hard)
