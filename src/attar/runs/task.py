"""What a run is before it begins: its settings, how many items it has, and what its file will say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attar.base.config import override
from attar.base.device import resolve_device
from attar.base.errors import InputError
from attar.base.progress import Progress
from attar.data.image_set import ImageSet
from attar.methods.labels import RegionLabels, SoftLabels
from attar.methods.labels.regions import ObserverFacts
from attar.methods.objectives.registry import learned_names
from attar.methods.parameterizations.diffusion import DiffusionConfig
from attar.methods.parameterizations.generator import GeneratorConfig
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.parameterizations.priors import PriorsConfig
from attar.methods.recipes import Recipe
from attar.methods.recipes import recipe as recipe_named
from attar.models.codecs.codec import Codec
from attar.models.codecs.registry import codec_from_text
from attar.runs.budget import Budget, items_per_class, largest_count, num_bytes
from attar.runs.splitting import Split
from attar.runs.starting import Spaces, tiles_per_code
from attar.sets.distilled import DistilledSet


@dataclass(frozen=True)
class Task:
    """Everything a run depends on, resolved; equal tasks on one device give equal files."""

    recipe: Recipe
    budget: Budget
    seed: int
    device: torch.device
    checkpoint_steps: int
    memory: str | None = None
    subtasks: tuple[int, Split] | None = None


def resolve_task(
    recipe: Recipe | str,
    budget: str | None,
    seed: int,
    device: str,
    settings: Mapping[str, Any] | None,
    codec: str | None,
    storage: str | None,
    checkpoint_steps: int,
    memory: str | None = None,
    label_bytes: str | None = None,
) -> Task:
    """The run's settings, checked before any image is read. Raises InputError."""
    resolved = recipe_named(recipe) if isinstance(recipe, str) else recipe
    changes: dict[str, Any] = {}
    if codec is not None:
        changes["codec"] = json.loads(codec_from_text(codec).model_dump_json())
    if storage is not None:
        changes["parameterization.storage"] = storage
    if label_bytes is not None:
        if not isinstance(resolved.labels, RegionLabels) and "labels" not in (settings or {}):
            raise InputError(
                f"recipe {resolved.name!r} has no region labels; leave out --label-bytes, or take recipe lic"
            )
        changes["labels.label_bytes"] = num_bytes(label_bytes, "label bytes")
    resolved = override(resolved, {**changes, **(settings or {})})
    if checkpoint_steps < 1:
        raise InputError(f"checkpoint steps are {checkpoint_steps}; at least 1 is needed")
    if memory is not None:
        num_bytes(memory, "memory")
    size = Budget.parse(budget or resolved.budget)
    return Task(resolved, size, seed, resolve_device(device), checkpoint_steps, memory)


def initial_kind(recipe: Recipe) -> str:
    """One word for what items start from: "random", "herding", "k-centre", "key" or "hardest"."""
    choice = recipe.initialization
    return choice if isinstance(choice, str) else choice.kind


def num_codes_per_class(
    task: Task, spaces: Spaces, train: ImageSet, name: str, progress: Progress, parts: Sequence[int] = ()
) -> int:
    """Codes of each class that the budget allows; of a mosaic, canvases; of priors and of what a diffusion model or a
    generator renders, as many as the budget says images.

    A budget in bytes counts the whole file, labels too, and takes no more codes than the smallest class has images for.

    Args:
        parts: how many classes each subtask has; none for a run that is whole.

    Raises:
        InputError: the budget holds less than one code of each class, naming the least that would do.
    """
    recipe = task.recipe
    if task.budget.unit != "bytes":
        one_to_one = isinstance(recipe.parameterization, PriorsConfig | DiffusionConfig | GeneratorConfig)
        return task.budget.amount if one_to_one else items_per_class(task.budget, spaces.codec)
    facts = facts_of(task, spaces.codec, train, name)
    labels, made = recipe.labels, recipe.parameterization

    def file_bytes(count: int) -> int:
        return DistilledSet.estimate_bytes(
            spaces.codec,
            spaces.preprocess,
            storage=made.storage,
            grid=made.grid if isinstance(made, MosaicConfig) else None,
            priors=made if isinstance(made, PriorsConfig) else None,
            rendered=made if isinstance(made, DiffusionConfig | GeneratorConfig) else None,
            label_storage=labels.storage if isinstance(labels, SoftLabels) else None,
            regions=labels if isinstance(labels, RegionLabels) else None,
            observer=None if recipe.observer is None else ObserverFacts.unknown(recipe.observer.network.name),
            learned=learned_names(recipe.objective),
            num_per_class=count,
            initial=(initial_kind(recipe), ()),
            parts=parts,
            **facts,
        )

    smallest = min(len(members) for members in train.class_indices) // tiles_per_code(recipe)
    count = largest_count(file_bytes, task.budget.amount, at_most=max(1, smallest))
    if not count:
        raise InputError(
            f"a budget of {task.budget.amount} bytes is too small for one item of each class; "
            f"at least {file_bytes(1)} bytes are needed with codec {spaces.codec.kind!r}"
        )
    if count == smallest:
        progress.note(f"the budget is not used up: the smallest class has {smallest} images")
    return count


def facts_of(task: Task, codec: Codec, train: ImageSet, name: str) -> dict[str, Any]:
    """What a manifest says of the run, apart from its items."""
    recipe = task.recipe.model_copy(update={"codec": task.recipe.codec.without_paths(codec)})
    tree = json.loads(recipe.model_dump_json())
    if task.subtasks is not None:
        tree["subtasks"], tree["split"] = task.subtasks
        tree["citations"] = sorted({*recipe.citations, "d3"})
    return {
        "classes": train.classes,
        "recipe": tree,
        "data": (name, train),
        "seed": task.seed,
        "device": task.device.type,
    }


def configuration_of(task: Task, codec: Codec, train: ImageSet, count: int) -> dict[str, Any]:
    """What a resumed run must share with the run it continues: of a codec out of a file its content, not its path."""
    read = task.recipe.codec.kind in ("autoencoder", "resample", "diffusion", "generator")
    return {
        "recipe": task.recipe.model_dump(mode="json"),
        "items_per_class": count,
        "seed": task.seed,
        "device": task.device.type,
        "data": train.fingerprint,
        **({"codec": codec.identity()} if read else {}),
        **({} if task.subtasks is None else {"subtasks": list(task.subtasks)}),
    }
