"""What a run is before it begins: its settings, its spaces, how many items it has, and what its file will say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from attar.base.config import override
from attar.base.device import resolve_device
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.data.image_set import ImageSet
from attar.methods.labels.region_logits import fitted
from attar.methods.labels.regions import ObserverFacts, RegionLabels
from attar.methods.parameterizations.parameterization import Spaces
from attar.methods.recipes import Recipe
from attar.methods.recipes import recipe as recipe_named
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.runs.budget import Budget, largest_count, num_bytes
from attar.runs.splitting import Split, split_classes
from attar.sets.sizes import estimate_bytes


@dataclass(frozen=True)
class Task:
    """Everything a run depends on, resolved; equal tasks on one device give equal files."""

    recipe: Recipe
    budget: Budget
    seed: int
    device: torch.device
    checkpoint_steps: int = 1
    memory: str | None = None
    subtasks: tuple[int, Split] | None = None


def resolve_task(
    recipe: Recipe | str,
    budget: str | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    codec: str | None = None,
    storage: str | None = None,
    checkpoint_steps: int = 1,
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
        if not resolved.labels.limits_bytes and "labels" not in (settings or {}):
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


def fitted_spaces(recipe: Recipe, train: ImageSet) -> Spaces:
    """The recipe's spaces, fitted to the training images. Raises InputError where it is for another image size."""
    sides = train.image_shape[1:]
    if recipe.image_size is not None and sides != (recipe.image_size, recipe.image_size):
        raise InputError(
            f"recipe {recipe.name!r} is for {recipe.image_size}-pixel images and these are {sides[0]} x {sides[1]}"
            f"; give --image-size {recipe.image_size} --resize crop, or use recipe latent-dm"
        )
    codec = fit_codec(recipe.codec, train)
    # A codec of pixels serves in both roles, so that network inputs are its codes.
    preprocess = codec if recipe.codec.gives_inputs else fit_codec(PixelsConfig(), train)
    return Spaces(codec, preprocess, codec if recipe.parameterization.matching == "codes" else preprocess)


@dataclass(frozen=True)
class Run:
    """One run, made once: everything that its steps need, in place of arguments that travel side by side.

    Args:
        task: what it depends on.
        train: the images to distil, all of them.
        name: where they came from.
        spaces: fitted to these images, or to more.
        count: codes, canvases or priors of each class.
        path: the file to write, or None.
        overwrite: whether an unfinished run of another configuration is forgotten.
        progress: what to report to.
        groups: the classes of each subtask; none for a run that is whole.
    """

    task: Task
    train: ImageSet
    name: str
    spaces: Spaces
    count: int
    path: Path | None = None
    overwrite: bool = False
    progress: Progress = field(default_factory=Silent)
    groups: Sequence[Sequence[int]] = ()

    @classmethod
    def of(
        cls,
        task: Task,
        train: ImageSet,
        name: str,
        path: Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Run:
        """The run of a task on some images, with as many items as the budget allows.

        Args:
            task, train, name, path, overwrite, progress: as of the class.

        Raises:
            InputError: images that the recipe is not for, classes that cannot be split, or a budget below one code
                of each class.
        """
        groups = [] if task.subtasks is None else split_classes(train, *task.subtasks, task.seed)
        spaces = fitted_spaces(task.recipe, train)
        empty = cls(task, train, name, spaces, 0, path, overwrite, progress or Silent(), groups)
        return replace(empty, count=empty._most_in_bytes() if task.budget.unit == "bytes" else empty._items_of_budget())

    @property
    def recipe(self) -> Recipe:
        return self.task.recipe

    @property
    def region_labels(self) -> RegionLabels | None:
        """Of the finished items; None where an observer gives none. Raises InputError where they cannot be stored."""
        labels = self.recipe.labels
        if not isinstance(labels, RegionLabels):
            return None
        fitted(labels, self.count * self.train.num_classes, self.train.num_classes)
        return labels

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of the run, apart from its items."""
        recipe = self.recipe.model_copy(update={"codec": self.recipe.codec.without_paths(self.spaces.codec)})
        tree = json.loads(recipe.model_dump_json())
        if self.task.subtasks is not None:
            tree["subtasks"], tree["split"] = self.task.subtasks
            tree["citations"] = sorted({*recipe.citations, "d3"})
        return {
            "classes": self.train.classes,
            "recipe": tree,
            "data": (self.name, self.train),
            "seed": self.task.seed,
            "device": self.task.device.type,
        }

    @property
    def configuration(self) -> dict[str, Any]:
        """What a resumed run must share with the run it continues: of a codec out of a file its content, not path."""
        task, codec = self.task, self.spaces.codec
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "items_per_class": self.count,
            "seed": task.seed,
            "device": task.device.type,
            "data": self.train.fingerprint,
            **({"codec": codec.identity()} if self.recipe.codec.read_from_file else {}),
            **({} if task.subtasks is None else {"subtasks": list(task.subtasks)}),
        }

    def _items_of_budget(self) -> int:
        budget = self.task.budget
        of_images = self.recipe.parameterization.codes_of_images(self.spaces.codec)
        return budget.amount * (of_images if budget.unit == "ipc" else 1)

    def _most_in_bytes(self) -> int:
        """The whole file counts, labels too; no class has more codes than the smallest class has images for."""
        recipe, spaces, amount = self.recipe, self.spaces, self.task.budget.amount
        observer = None if recipe.observer is None else ObserverFacts.unknown(recipe.observer.network.name)

        def file_bytes(count: int) -> int:
            return estimate_bytes(
                spaces.codec,
                spaces.preprocess,
                items=recipe.parameterization,
                labels=recipe.labels,
                observer=observer,
                learned=recipe.objective.learned_names,
                num_per_class=count,
                initial=(recipe.initial_kind, ()),
                parts=[len(group) for group in self.groups],
                **self.facts,
            )

        smallest = min(len(members) for members in self.train.class_indices) // recipe.parameterization.num_tiles
        count = largest_count(file_bytes, amount, at_most=max(1, smallest))
        if not count:
            raise InputError(
                f"a budget of {amount} bytes is too small for one item of each class; "
                f"at least {file_bytes(1)} bytes are needed with codec {spaces.codec.kind!r}"
            )
        if count == smallest:
            self.progress.note(f"the budget is not used up: the smallest class has {smallest} images")
        return count
