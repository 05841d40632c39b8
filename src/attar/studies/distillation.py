"""Distilled sets that a study makes for itself, kept in the cache under everything that they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key
from attar.base.progress import Progress
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.methods.parameterizations.registry import canvas_grid
from attar.methods.recipes import Recipe
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet

CHECKPOINT_STEPS = 100


@dataclass(frozen=True)
class Distillation:
    """One set to make of nothing but `train`, images of the data of that name, kept in a room of the cache."""

    room: str
    recipe: Recipe
    budget: str
    train: ImageSet
    data: str
    seed: int
    device: torch.device

    @property
    def path(self) -> Path:
        """The set's file in the cache."""
        key = content_key(
            self.recipe, self.budget, self.train.fingerprint, self.data, self.seed, self.device.type,
            __version__, torch.__version__,
        )  # fmt: skip
        return cache_directory(self.room) / f"{key}.attar.safetensors"

    def run(self, cache: bool, progress: Progress) -> DistilledSet:
        """The set: from the cache where it is there and whole, else distilled, and kept if `cache` says so."""
        path = self.path if cache else None
        if path is not None and path.exists():
            try:
                return DistilledSet.load(path)
            except InputError as error:
                progress.note(f"distilled anew: {error}")
        return distill(
            Splits(self.train, self.train, self.data),  # the run must not see test images
            self.recipe,
            self.budget,
            out=path,
            seed=self.seed,
            device=str(self.device),
            checkpoint_steps=CHECKPOINT_STEPS,
            overwrite=True,
            progress=progress,
        )


def budget_of(distilled: DistilledSet) -> str | None:
    """The budget that gives as many items, e.g. "10lpc"; None where classes have different numbers of items."""
    if len(set(distilled.num_per_class)) > 1:
        return None
    num_canvases = sum(canvas_grid(shard.parameterization, shard.num_items)[0] for shard in distilled.manifest.shards)
    return f"{num_canvases // distilled.num_classes}lpc"
