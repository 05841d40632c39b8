"""Where a run starts: the first items, and the real ones that they are matched with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attar.data.resizing import Grid
from attar.methods.initialization import Sources, initial_indices, key_samples
from attar.methods.initialization.sources import encoded
from attar.methods.parameterizations.parameterization import Material, Parameterization
from attar.models.observers.observer import Observer
from attar.models.real_items import RealItems, codes_to_hold, real_items
from attar.runs.task import Run


@dataclass(frozen=True)
class Start:
    """A run's first items.

    Args:
        synthetic: on the device.
        sources: the real image, or the part of one, behind each item; None where items start from noise.
        real: what the items are matched with; None where nothing is.
    """

    synthetic: Parameterization
    sources: Sources | None
    real: RealItems | None


def start(run: Run, observer: Observer | None) -> Start:
    """The first items, `run.count` codes or priors for each class; the observer ranks images for key samples.

    Everything is encoded once, unless encoding is cheap and float32 codes would be larger than the uint8 images.
    Raises InputError for a class with too few images.
    """
    recipe, matching, device = run.recipe, run.spaces.matching, run.task.device
    matched = bool(recipe.objective.components)
    held = None
    if matched or recipe.initialization in ("herding", "k-centre"):
        held = codes_to_hold(matching, run.train, device, run.progress)
    material = Material(run.spaces, run.train, run.count, run.task.seed, held=held)
    if recipe.initialization != "noise":
        sources = _sources(run, held, observer, material)
        material = Material(run.spaces, run.train, run.count, run.task.seed, sources, held)
    synthetic = recipe.parameterization.initial(material).to(device)
    real = real_items(matching, run.train, held, device) if matched else None
    return Start(synthetic, material.sources, real)


def _sources(run: Run, held: Tensor | None, observer: Observer | None, material: Material) -> Sources:
    recipe, train, device = run.recipe, run.train, run.task.device
    count = run.count * recipe.parameterization.num_tiles
    if not isinstance(recipe.initialization, str):
        if observer is None:
            raise ValueError("key samples are ranked by an observer, and there is none")
        return key_samples(recipe.initialization, observer, train, count, material.draw, device, run.progress)

    def items_of(indices: Tensor) -> Tensor:
        if held is not None:
            return held[indices].float()
        return encoded(run.spaces.matching, Sources(train, indices, device=device), Grid(1))

    kind, classes = recipe.initialization, train.classes
    indices = initial_indices(kind, items_of, train.class_indices, count, material.draw, classes)
    return Sources(train, indices, device=device)
