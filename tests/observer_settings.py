"""Observers for the tests of files and bytes: few digits, four short epochs."""

from __future__ import annotations

import os
import signal
from typing import Any

from attar.base.config import override
from attar.base.progress import Silent
from attar.data.image_set import ImageSet
from attar.models.observers.cache import folder
from attar.models.observers.config import ObserverConfig
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


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder().glob("[!.]*")) if path.name != "claims.lock"}


class Watcher(Silent):
    """Counts steps, keeps notes, and may interrupt at a step."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.steps, self.resumed, self.interrupt_at = 0, 0, interrupt_at
        self.total = 0
        self.notes: list[str] = []

    def start(self, description: str, total: int) -> None:
        self.total = total

    def advance(self, count: int = 1, **figures: float) -> None:
        self.resumed += 0 if figures else count
        self.steps += count
        if self.steps == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)
