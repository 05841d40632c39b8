"""The only outer loop: real images and a recipe in, a distilled set out."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.budget import Budget, items_per_class, largest_count
from attar.codecs.augmenting import siamese_augmentation
from attar.codecs.codec import Codec
from attar.codecs.pixels import Pixels, PixelsConfig
from attar.codecs.registry import codec_from_text, fit_codec, without_paths
from attar.config import override
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.device import resolve_device
from attar.distilled import DistilledSet
from attar.errors import InputError, NonFiniteLossError
from attar.experts import train_experts
from attar.files import refuse_existing
from attar.initialization import initial_indices
from attar.labels import SoftLabels, class_logits, class_major_labels, network_logits
from attar.manifest import check_classes
from attar.memory import is_out_of_memory, parse_memory, plan_memory
from attar.networks.network import build_network
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.objective import Context, Experts, Objective, RealItems
from attar.objectives.registry import build_objective, learned_names
from attar.objectives.trajectories import TrajectoriesConfig
from attar.parameterizations.codes import Codes
from attar.progress import Progress, Silent
from attar.randomness import generator
from attar.real import codes_to_hold, real_items
from attar.recipes import Recipe
from attar.recipes import recipe as recipe_named
from attar.run_state import RunState, stop_requested
from attar.updates import Updates


@dataclass(frozen=True)
class Task:
    """Everything a run depends on, resolved; equal tasks on one device give equal files."""

    recipe: Recipe
    budget: Budget
    seed: int
    device: torch.device
    checkpoint_steps: int
    memory: str | None = None


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
    memory: str | None = None,
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
        memory: the most that may be taken, e.g. "8GB"; None is four fifths of what the device has free.
        overwrite: replace an existing `out`, and forget an unfinished run of another configuration.
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
    task = resolve_task(recipe, budget, seed, device, settings, codec, storage, checkpoint_steps, memory)
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
    if path is not None and real is not None:
        state = RunState(path, _configuration(task, train, count))
    learned: Mapping[str, float] = {}
    if real is not None:
        experts = train_for(task, image_codec, preprocess, train, real, progress)
        synthetic = with_soft_labels(task.recipe, synthetic, train.num_classes, experts)
        objective = compose(task, image_codec, preprocess, train, real, synthetic, experts, progress)
        updates = Updates(task.recipe, synthetic, objective, count)

        def match(step: int) -> dict[str, float]:
            return objective.accumulate(synthetic, real, generator(task.seed, "step", step))

        try:
            optimise(task, updates, objective, match, state, overwrite, progress)
        finally:
            if state is not None:
                state.close()
        learned = objective.learned()
    result = DistilledSet.build(
        synthetic.cpu(),
        preprocess.cpu(),
        initial=(task.recipe.initialization, indices.tolist()),
        learned=learned,
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
    memory: str | None = None,
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
    if memory is not None:
        parse_memory(memory)
    size = Budget.parse(budget or resolved.budget)
    return Task(resolved, size, seed, resolve_device(device), checkpoint_steps, memory)


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
    labels, objective = task.recipe.labels, task.recipe.objective

    def file_bytes(count: int) -> int:
        return DistilledSet.estimate_bytes(
            codec,
            preprocess,
            storage=task.recipe.parameterization.storage,
            label_storage=labels.storage if isinstance(labels, SoftLabels) else None,
            learned=learned_names(objective),
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
    needed = trains or recipe.initialization != "random"
    codes = codes_to_hold(codec, train, task.device, progress) if needed else None

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
    return synthetic, indices, real_items(codec, train, codes, task.device)


def train_for(
    task: Task, codec: Codec, preprocess: Codec, train: ImageSet, real: RealItems, progress: Progress
) -> Experts | None:
    """The recipe's experts, trained as far as they are missing; None where the objective reads none."""
    objective = task.recipe.objective
    if not isinstance(objective, TrajectoriesConfig):
        return None
    augmentation = siamese_augmentation(objective.augmentation, codec, preprocess.to(task.device))
    return train_experts(objective, augmentation, real, train, codec, progress=progress)


def with_soft_labels(recipe: Recipe, synthetic: Codes, num_classes: int, experts: Experts | None) -> Codes:
    """The items with their first soft labels, where the recipe has some: a trained expert's, or the class."""
    labels, objective = recipe.labels, recipe.objective
    if not isinstance(labels, SoftLabels):
        return synthetic
    logits = class_logits(synthetic.labels, num_classes, labels.initial_logit)
    if labels.initial == "expert":
        assert experts is not None and isinstance(objective, TrajectoriesConfig)
        items = synthetic.codes.detach()
        network = build_network(objective.network, synthetic.codec.code_shape, num_classes).to(items.device)
        logits = network_logits(network, experts.parameters(0, experts.num_epochs).to(items.device), items)
    soft = Codes(synthetic.codec, synthetic.codes, synthetic.labels, synthetic.storage, logits, labels.storage)
    return soft.to(synthetic.codes.device)


def compose(
    task: Task,
    codec: Codec,
    preprocess: Codec,
    train: ImageSet,
    real: RealItems,
    synthetic: Codes,
    experts: Experts | None,
    progress: Progress,
) -> Objective:
    """The recipe's objective on these items, fitted to the memory that there is."""
    config = task.recipe.objective
    assert not isinstance(config, NoObjectiveConfig)
    augmentation = siamese_augmentation(config.augmentation, codec, preprocess.to(task.device))
    context = Context(real.shape, train.num_classes, task.device, task.recipe.steps, augmentation, experts)
    plan = plan_memory(task.recipe, context, synthetic, real, task.memory)
    progress.note(plan.line)
    return build_objective(plan.config, context)


def optimise(
    task: Task,
    updates: Updates,
    objective: Objective,
    match: Callable[[int], dict[str, float]],
    state: RunState | None,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Take the recipe's steps, in place; resumes from `state` and saves to it."""
    steps = task.recipe.steps
    done, tensors = state.open(overwrite) if state else (0, {})
    updates.restore(tensors)
    progress.start(f"distilling with {task.recipe.name}", steps)
    progress.advance(done)
    with stop_requested() as stop:
        for step in range(done, steps):
            updates.clear()
            try:
                figures = _accumulate(objective, updates, functools.partial(match, step), progress)
            except NonFiniteLossError as error:
                raise _stopped(error, step, updates, state) from None
            updates.take(step / steps)
            progress.advance(1, **figures)
            if state:
                state.record(step + 1, figures)
                if stop.is_set() or (step + 1) % task.checkpoint_steps == 0 or step + 1 == steps:
                    state.save(step + 1, updates.tensors())
            if stop.is_set():
                raise KeyboardInterrupt
    updates.finish()
    progress.finish()


def _accumulate(
    objective: Objective, updates: Updates, match: Callable[[], dict[str, float]], progress: Progress
) -> dict[str, float]:
    """One step's gradients; where memory runs out, once more in chunks of half the size.

    Raises:
        NonFiniteLossError: the loss is not finite; the objective is as it was before the step.
    """
    while True:
        before = {name: value.clone() for name, value in objective.resume_state().items()}
        try:
            figures = match()
            if not math.isfinite(figures["loss"]):
                raise NonFiniteLossError(
                    f"the loss is {figures['loss']}; lower the rate (--set optimizer.learning_rate=...)"
                )
            return figures
        except NonFiniteLossError:
            objective.resume(before)
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        updates.clear()
        objective.resume(before)
        if not objective.halve_memory():
            raise InputError("memory ran out with chunks of one item; take a smaller network, or another device")
        progress.note("memory ran out: from now on in chunks of half the size")


def _stopped(error: NonFiniteLossError, step: int, updates: Updates, state: RunState | None) -> NonFiniteLossError:
    """The same error with the step named, once what the step began from is saved."""
    if state:
        state.save(step, updates.tensors())
    saved = f"; the state after step {step} is saved in {state.folder}; start anew with --overwrite" if state else ""
    return NonFiniteLossError(f"{error} (in step {step + 1}{saved})")


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
