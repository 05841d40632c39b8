"""The only outer loop: real images and a recipe in, a distilled set out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.footprint import is_out_of_memory
from attar.base.interrupts import stop_requested
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.methods.labels import RegionLabels, SoftLabels, class_logits, network_logits
from attar.methods.labels.checkpoints import forget_kept
from attar.methods.labels.region_logits import fitted
from attar.methods.objectives.objective import Context, NoObjectiveConfig, Objective
from attar.methods.objectives.registry import build_objective, expert_part
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.recipes import Recipe
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.experts import train_experts
from attar.models.experts.config import Experts
from attar.models.networks.registry import build_network
from attar.models.observers import Observer, observer_for
from attar.models.real_items import RealItems
from attar.runs.checkpoints import RunState, run_folder
from attar.runs.memory import plan_memory
from attar.runs.starting import Spaces, Start, start
from attar.runs.task import Task, configuration_of, facts_of, initial_kind
from attar.runs.updates import Updates
from attar.sets.distilled import DistilledSet
from attar.sets.relabelling import with_regions


def distill_images(
    task: Task,
    train: ImageSet,
    name: str,
    spaces: Spaces,
    count: int,
    path: Path | None,
    overwrite: bool,
    progress: Progress,
) -> DistilledSet:
    """Distil all of `train` in given spaces: one run, saved and resumed as `distill` says.

    Args:
        task: what the run depends on.
        train: the images.
        name: where they came from.
        spaces: fitted to these images, or to more.
        count: codes or priors of each class.
        path: the file to write, or None.
        overwrite: see `distill`.
        progress: what to report to.
    """
    if isinstance(task.recipe.labels, RegionLabels):
        fitted(task.recipe.labels, count * train.num_classes, train.num_classes)  # refused now, not after all the work
    observer = observer_of(task, train, progress)
    begun = start(task.recipe, spaces, train, count, task.seed, task.device, observer, progress)
    synthetic, state = begun.synthetic, None
    learned: Mapping[str, float] = {}
    if begun.real is not None:
        state = RunState(path, configuration_of(task, spaces.codec, train, count)) if path is not None else None
        synthetic, learned = _matched(task, spaces, train, begun, observer, count, state, overwrite, progress)
    result = DistilledSet.build(
        synthetic.cpu(),
        spaces.preprocess.cpu(),
        initial=(initial_kind(task.recipe), [] if begun.sources is None else begun.sources.indices.tolist()),
        learned=learned,
        **facts_of(task, spaces.codec, train, name),
    )
    labels_folder = None if path is None else run_folder(path) / "labels"
    if isinstance(task.recipe.labels, RegionLabels):
        assert observer is not None
        result = with_regions(
            result, observer, task.recipe.labels, device=task.device, progress=progress, folder=labels_folder
        )
    if path is not None:
        result.save(path, overwrite=overwrite)
    if labels_folder is not None:
        forget_kept(labels_folder)
    if state is not None:
        state.finish()
    return result


def _matched(
    task: Task,
    spaces: Spaces,
    train: ImageSet,
    begun: Start,
    observer: Observer | None,
    count: int,
    state: RunState | None,
    overwrite: bool,
    progress: Progress,
) -> tuple[Parameterization, Mapping[str, float]]:
    """The items after all steps, and the numbers learned with them."""
    assert begun.real is not None
    experts = train_for(task, spaces, train, begun.real, progress)
    labels = task.recipe.labels
    soft_from = labels.computed if isinstance(labels, SoftLabels) else None
    if soft_from == "start":
        take_soft_labels(task.recipe, begun.synthetic, train.num_classes, experts)
    objective = compose(task, spaces, train, begun, observer, experts, progress)
    updates = Updates(task.recipe, begun.synthetic, objective, count)

    def match(step: int) -> dict[str, float]:
        assert begun.real is not None
        return objective.accumulate(begun.synthetic, begun.real, generator(task.seed, "step", step))

    try:
        optimise(task, updates, objective, match, state, overwrite, progress)
    finally:
        if state is not None:
            state.close()
    if soft_from == "end":
        take_soft_labels(task.recipe, begun.synthetic, train.num_classes, experts)
    return begun.synthetic, objective.learned()


def training_images(data: Any, progress: Progress, loading: Mapping[str, Any]) -> tuple[ImageSet, str]:
    """The images to distil and the name of where they came from."""
    if isinstance(data, ImageSet):
        return data, "images"
    splits = data if isinstance(data, Splits) else load_images(data, progress=progress, **loading)
    return splits.train, splits.name


def observer_of(task: Task, train: ImageSet, progress: Progress) -> Observer | None:
    """The recipe's observer, trained or loaded, and checked; None where nothing asks for one."""
    config = task.recipe.observer
    return None if config is None else observer_for(config, train, task.device, progress)


def train_for(task: Task, spaces: Spaces, train: ImageSet, real: RealItems, progress: Progress) -> Experts | None:
    """The recipe's experts, trained as far as they are missing; None where the objective reads none."""
    objective = expert_part(task.recipe.objective)
    if objective is None:
        return None
    spaces = spaces.to(task.device)
    augmentation = siamese_augmentation(objective.augmentation, spaces.matching, spaces.preprocess)
    return train_experts(objective, augmentation, real, train, spaces.matching, progress=progress)


def take_soft_labels(recipe: Recipe, synthetic: Parameterization, num_classes: int, experts: Experts | None) -> None:
    """Give the items the recipe's soft labels: what a trained expert says of them, or their class."""
    labels, objective = recipe.labels, expert_part(recipe.objective)
    assert isinstance(labels, SoftLabels)
    logits = class_logits(synthetic.labels, num_classes, labels.initial_logit)
    if labels.initial == "expert":
        assert experts is not None and objective is not None
        items = synthetic.means(torch.arange(len(synthetic), device=synthetic.labels.device))
        network = build_network(objective.network, synthetic.codec.code_shape, num_classes).to(items.device)
        logits = network_logits(network, experts.parameters(0, experts.num_epochs).to(items.device), items)
    synthetic.take_soft_labels(logits, labels.storage)


def compose(
    task: Task,
    spaces: Spaces,
    train: ImageSet,
    begun: Start,
    observer: Observer | None,
    experts: Experts | None,
    progress: Progress,
) -> Objective:
    """The recipe's objective on these items, fitted to the memory that there is."""
    config, real = task.recipe.objective, begun.real
    assert not isinstance(config, NoObjectiveConfig) and real is not None
    spaces = spaces.to(task.device)
    context = Context(
        real.shape,
        train.num_classes,
        task.device,
        task.recipe.steps,
        siamese_augmentation(config.augmentation, spaces.matching, spaces.preprocess),
        experts,
        observer,
        None if begun.sources is None else begun.sources.images,
        spaces.matching.decode,
    )
    plan = plan_memory(task.recipe, context, begun.synthetic, real, task.memory)
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
        statistics = updates.statistics()
        try:
            figures = match()
            if not math.isfinite(figures["loss"]):
                raise NonFiniteLossError(
                    f"the loss is {figures['loss']}; lower the rate (--set optimizer.learning_rate=...)"
                )
            return figures
        except NonFiniteLossError:
            objective.resume(before)
            updates.put_back(statistics)
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        updates.clear()
        objective.resume(before)
        updates.put_back(statistics)
        if not updates.halve_memory():
            raise InputError("memory ran out with chunks of one item; take a smaller network, or another device")
        progress.note("memory ran out: from now on in chunks of half the size")


def _stopped(error: NonFiniteLossError, step: int, updates: Updates, state: RunState | None) -> NonFiniteLossError:
    """The same error with the step named, once what the step began from is saved."""
    if state:
        state.save(step, updates.tensors())
    saved = f"; the state after step {step} is saved in {state.folder}; start anew with --overwrite" if state else ""
    return NonFiniteLossError(f"{error} (in step {step + 1}{saved})")
