"""Observers for the tests of files and bytes: few digits, four short epochs."""

from __future__ import annotations

from typing import Any

from attar.config import override
from attar.data.image_set import ImageSet
from attar.observers import ObserverConfig
from small_sets import digit_images, first_items


def few_digits() -> ImageSet:
    return digit_images().select(first_items(digit_images(), 8))


def short(**changes: Any) -> ObserverConfig:
    """Four epochs on few digits: nothing is learned, and all is said about bytes."""
    settings = {
        "network": {"kind": "convnet", "width": 4, "norm": "batch"},
        "training.epochs": 4,
        "training.batch_size": 32,
        "training.min_steps": None,
        "least_accuracy": 0.0,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return override(ObserverConfig(), settings)
