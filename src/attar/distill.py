"""The only outer loop: real images and a recipe in, a distilled set out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.budget import Budget, items_per_class, largest_count
from attar.codecs.augmenting import siamese_augmentation
from attar.codecs.codec import Codec
from attar.codecs.encoding import encode_images
from attar.codecs.pixels import Pixels, PixelsConfig
from attar.codecs.registry import codec_from_text, fit_codec, without_paths
from attar.config import override
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.device import resolve_device
from attar.distilled import DistilledSet
from attar.errors import InputError, NonFiniteLossError
from attar.files import refuse_existing
from attar.initialization import initial_indices
from attar.labels import class_major_labels
from attar.manifest import check_classes
from attar.objectives.features import FeaturesConfig
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.objective import Objective, RealItems
from attar.objectives.registry import build_objective
from attar.parameterizations.codes import Codes
from attar.progress import Progress, Silent
from attar.randomness import generator
from attar.recipes import Recipe
from attar.recipes import recipe as recipe_named
from attar.run_state import RunState, stop_requested


@dataclass(frozen=True)
class Task:
    """Everything a run depends on, resolved; equal tasks on one device give equal files."""

    recipe: Recipe
    budget: Budget
    seed: int
    device: torch.device
    checkpoint_steps: int


def distill(
    data: Any,
    recipe: Recipe | str = "latent-dm",
    budget: str | None = None,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    codec: str | None = None,
    storage: str | None = None,
    checkpoint_steps: int = 100,
    overwrite: bool = False,
    progress: Progress | None = None,
    **loading: Any,
) -> DistilledSet:
    """Distil the training part of `data` into a set of the chosen size.

    With `out`, the state is saved every `checkpoint_steps` steps in the folder NAME.run beside it; after Ctrl-C or a
    kill the same call goes on from there and ends in the same file.

    Args:
        data: anything `load_images` takes, or Splits, or an ImageSet (all of it is distilled).
        recipe: a name in `recipes.REGISTRY`, or a Recipe.
        budget: "10ipc", "120lpc" or "5MB" (the whole file); None takes the recipe's.
        out: the file to write, or None to write nothing.
        seed: every random choice derives from it.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted recipe settings to replace, e.g. {"steps": 50, "objective.network.width": 64}.
        codec: text of another codec, e.g. "pca:f4c8" or "autoencoder:FOLDER".
        storage: "float32", "float16" or "int8"; None takes the recipe's.
        checkpoint_steps: steps between two saved states.
        overwrite: replace an existing `out` and forget an unfinished run.
        progress: what to report to.
        **loading: further arguments of `load_images`.

    Returns:
        The distilled set, as it was stored: quantised where the storage is.

    Raises:
        InputError: data, recipe, budget or output that will not do; nothing is written then.
        NonFiniteLossError: the loss stopped being finite; the last good state is saved.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.

    Example:
        >>> small = distill("digits", budget="1ipc", settings={"steps": 2})
        >>> len(small), small.num_classes
        (40, 10)
    """
    progress = progress or Silent()
    task = resolve_task(recipe, budget, seed, device, settings, codec, storage, checkpoint_steps)
    path = Path(out) if out is not None else None
    if path is not None:
        refuse_existing(path, overwrite)
    train, name = training_images(data, progress, loading)
    check_classes(train.classes)
    image_codec = fit_for(task.recipe, train)
    preprocess = image_codec if isinstance(image_codec, Pixels) else fit_codec(PixelsConfig(), train)
    count = num_items_per_class(task, image_codec, preprocess, train, name, progress)
    synthetic, indices, real = start(task, image_codec, train, count, progress)
    state = None
    if path is not None and task.recipe.steps:
        state = RunState(path, _configuration(task, train, count))
    if task.recipe.steps:
        optimise(task, synthetic, real, preprocess, train.num_classes, state, overwrite, progress)
    result = DistilledSet.build(
        synthetic.cpu(),
        preprocess.cpu(),
        initial=(task.recipe.initialization, indices.tolist()),
        **_facts(task, image_codec, train, name),
    )
    if path is not None:
        result.save(path, overwrite=overwrite)
    if state is not None:
        state.finish()
    return result


def resolve_task(
    recipe: Recipe | str,
    budget: str | None,
    seed: int,
    device: str,
    settings: Mapping[str, Any] | None,
    codec: str | None,
    storage: str | None,
    checkpoint_steps: int,
) -> Task:
    """The run's settings, checked before any image is read. Raises InputError."""
    resolved = recipe_named(recipe) if isinstance(recipe, str) else recipe
    changes: dict[str, Any] = {}
    if codec is not None:
        changes["codec"] = json.loads(codec_from_text(codec).model_dump_json())
    if storage is not None:
        changes["parameterization.storage"] = storage
    resolved = override(resolved, {**changes, **(settings or {})})
    if checkpoint_steps < 1:
        raise InputError(f"checkpoint steps are {checkpoint_steps}; at least 1 is needed")
    return Task(resolved, Budget.parse(budget or resolved.budget), seed, resolve_device(device), checkpoint_steps)


def training_images(data: Any, progress: Progress, loading: Mapping[str, Any]) -> tuple[ImageSet, str]:
    """The images to distil and the name of where they came from."""
    if isinstance(data, ImageSet):
        return data, "images"
    splits = data if isinstance(data, Splits) else load_images(data, progress=progress, **loading)
    return splits.train, splits.name


def fit_for(recipe: Recipe, train: ImageSet) -> Codec:
    """The recipe's codec for these images. Raises InputError where the recipe is for another image size."""
    sides = train.image_shape[1:]
    if recipe.image_size is not None and sides != (recipe.image_size, recipe.image_size):
        raise InputError(
            f"recipe {recipe.name!r} is for {recipe.image_size}-pixel images and these are {sides[0]} x {sides[1]}; "
            f"give --image-size {recipe.image_size} --resize crop, or use recipe latent-dm"
        )
    return fit_codec(recipe.codec, train)


def num_items_per_class(
    task: Task, codec: Codec, preprocess: Codec, train: ImageSet, name: str, progress: Progress
) -> int:
    """Items of each class that the budget allows.

    A budget in bytes counts the whole file and takes no more items than the smallest class has images.

    Raises:
        InputError: the budget holds less than one item of each class, naming the least that would do.
    """
    if task.budget.unit != "bytes":
        return items_per_class(task.budget, codec)

    facts = _facts(task, codec, train, name)

    def file_bytes(count: int) -> int:
        return DistilledSet.estimate_bytes(
            codec,
            preprocess,
            storage=task.recipe.parameterization.storage,
            num_per_class=count,
            initial=(task.recipe.initialization, ()),
            **facts,
        )

    smallest = min(len(members) for members in train.class_indices)
    count = largest_count(file_bytes, task.budget.amount, at_most=smallest)
    if not count:
        raise InputError(
            f"a budget of {task.budget.amount} bytes is too small for one item of each class; "
            f"at least {file_bytes(1)} bytes are needed with codec {codec.kind!r}"
        )
    if count == smallest:
        progress.note(f"the budget is not used up: the smallest class has {smallest} images to start from")
    return count


def start(
    task: Task, codec: Codec, train: ImageSet, count: int, progress: Progress
) -> tuple[Codes, Tensor, RealItems | None]:
    """The initial items, the training indices they came from, and the real items if they will be matched.

    Everything is encoded once, unless encoding is cheap and float32 codes would be larger than the uint8 images.
    """
    recipe = task.recipe
    trains = not isinstance(recipe.objective, NoObjectiveConfig)
    codes = None
    needed = trains or recipe.initialization != "random"
    if needed and not (codec.cheap and 4 * codec.num_code_values > codec.num_image_values):
        codes = encode_images(codec, train, device=task.device, progress=progress)

    def items_of(indices: Tensor) -> Tensor:
        if codes is not None:
            return codes[indices].float()
        frozen = codec.to(task.device)
        blocks = [frozen.encode(train.images[part].to(task.device).float() / 255).cpu() for part in indices.split(256)]
        return torch.cat(blocks)

    draw = generator(task.seed, "initialization")
    indices = initial_indices(recipe.initialization, items_of, train.class_indices, count, draw, train.classes)
    labels = class_major_labels(train.num_classes, count)
    synthetic = Codes(codec, items_of(indices), labels, recipe.parameterization.storage).to(task.device)
    if not trains:
        return synthetic, indices, None
    real = (
        RealItems(train.labels, train.num_classes, codes=codes, device=task.device)
        if codes is not None
        else RealItems(train.labels, train.num_classes, images=train, codec=codec, device=task.device)
    )
    return synthetic, indices, real


def optimise(
    task: Task,
    synthetic: Codes,
    real: RealItems | None,
    preprocess: Codec,
    num_classes: int,
    state: RunState | None,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Take the recipe's steps, in place; resumes from `state` and saves to it."""
    recipe = task.recipe
    assert real is not None and recipe.optimizer is not None, "a recipe with steps has an objective and an optimizer"
    assert isinstance(recipe.objective, FeaturesConfig)
    augmentation = siamese_augmentation(recipe.objective.augmentation, synthetic.codec, preprocess.to(task.device))
    objective = build_objective(recipe.objective, real.shape, num_classes, task.device, recipe.steps, augmentation)
    count = len(synthetic) // num_classes
    optimizer = torch.optim.SGD(_trainable(synthetic).values(), lr=0.0, momentum=recipe.optimizer.momentum)
    done, tensors = state.open(overwrite) if state else (0, {})
    _restore(synthetic, optimizer, tensors)
    progress.start(f"distilling with {recipe.name}", recipe.steps)
    progress.advance(done)
    with stop_requested() as stop:
        for step in range(done, recipe.steps):
            optimizer.param_groups[0]["lr"] = recipe.optimizer.rate(count, step / recipe.steps)
            figures = _step(task, step, synthetic, real, objective, optimizer, state)
            progress.advance(1, **figures)
            if state:
                state.record(step + 1, figures)
                if stop.is_set() or (step + 1) % task.checkpoint_steps == 0 or step + 1 == recipe.steps:
                    state.save(step + 1, _tensors(synthetic, optimizer))
            if stop.is_set():
                raise KeyboardInterrupt
    progress.finish()


def _step(
    task: Task,
    step: int,
    synthetic: Codes,
    real: RealItems,
    objective: Objective,
    optimizer: torch.optim.SGD,
    state: RunState | None,
) -> dict[str, float]:
    optimizer.zero_grad(set_to_none=True)
    figures = objective.accumulate(synthetic, real, generator(task.seed, "step", step))
    if not math.isfinite(figures["loss"]):
        if state:
            state.save(step, _tensors(synthetic, optimizer))
        saved = f"; the state after step {step} is saved in {state.folder}" if state else ""
        raise NonFiniteLossError(
            f"the loss is {figures['loss']} in step {step + 1}{saved}; "
            "lower the rate (--set optimizer.learning_rate=...) and start anew with --overwrite"
        )
    optimizer.step()
    return figures


def _trainable(synthetic: Codes) -> dict[str, torch.nn.Parameter]:
    """The parameters of the items; those of an autoencoder are frozen and no part of the run's state."""
    return {name: parameter for name, parameter in synthetic.named_parameters() if parameter.requires_grad}


def _tensors(synthetic: Codes, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    trainable = _trainable(synthetic)
    tensors = {f"item.{name}": parameter.detach() for name, parameter in trainable.items()}
    for name, parameter in trainable.items():
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    return tensors


def _restore(synthetic: Codes, optimizer: torch.optim.SGD, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in _trainable(synthetic).items():
        if f"item.{name}" in tensors:
            parameter.data.copy_(tensors[f"item.{name}"])
        if f"momentum.{name}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"].to(parameter.device)


def _facts(task: Task, codec: Codec, train: ImageSet, name: str) -> dict[str, Any]:
    """What a manifest says of the run, apart from its items."""
    recipe = task.recipe.model_copy(update={"codec": without_paths(task.recipe.codec, codec)})
    return {
        "classes": train.classes,
        "recipe": json.loads(recipe.model_dump_json()),
        "data": (name, train),
        "seed": task.seed,
        "device": task.device.type,
    }


def _configuration(task: Task, train: ImageSet, count: int) -> dict[str, Any]:
    """What a resumed run must share with the run it continues."""
    return {
        "recipe": json.loads(task.recipe.model_dump_json()),
        "items_per_class": count,
        "seed": task.seed,
        "device": task.device.type,
        "data": train.fingerprint,
    }
