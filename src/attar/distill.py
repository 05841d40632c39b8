"""The only outer loop: real images and a recipe in, a distilled set out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.codecs.augmenting import siamese_augmentation
from attar.data.handed import handed
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.distilled import DistilledSet
from attar.engines import Engine, Local
from attar.errors import InputError, NonFiniteLossError
from attar.experts import train_experts
from attar.files import refuse_existing
from attar.footprint import is_out_of_memory
from attar.labels import RegionLabels, SoftLabels, class_logits, network_logits
from attar.labels.keeping import forget_kept
from attar.labels.region_logits import fitted
from attar.manifest import check_classes
from attar.memory import plan_memory
from attar.networks.network import build_network
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.objective import Context, Experts, Objective, RealItems
from attar.objectives.registry import build_objective, expert_part
from attar.observers import Observer, observer_for
from attar.parameterizations.parameterization import Parameterization
from attar.progress import Progress, Silent
from attar.randomness import generator
from attar.recipes import Recipe
from attar.relabelling import with_regions
from attar.run_state import RunState, run_folder, stop_requested
from attar.splitting import Split
from attar.starting import Spaces, Start, start
from attar.task import Task, configuration_of, facts_of, initial_kind, num_codes_per_class, resolve_task
from attar.updates import Updates


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
    label_bytes: str | None = None,
    checkpoint_steps: int = 100,
    memory: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    subtasks: int | None = None,
    split: Split | None = None,
    engine: Engine | None = None,
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
        label_bytes: the most that region labels may take, e.g. "500kB"; None takes the recipe's.
        checkpoint_steps: steps between two saved states.
        memory: the most that may be taken, e.g. "8GB"; None is four fifths of what the device has free.
        overwrite: replace an existing `out`, and forget an unfinished run of another configuration.
        progress: what to report to.
        subtasks: parts that the classes are split into, each distilled for itself and all merged; see `subtasks.py`.
        split: how: "contiguous" (the usual), "random", "similarity"; only with `subtasks`.
        engine: where the parts are distilled; None is one after another in this process. Only with `subtasks`.
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
    if subtasks is None and (split is not None or engine is not None):
        raise InputError(f"{'split' if split else 'engine'} has no effect without subtasks; give --subtasks, e.g. 2")
    task = resolve_task(recipe, budget, seed, device, settings, codec, storage, checkpoint_steps, memory, label_bytes)
    path = Path(out) if out is not None else None
    if path is not None:
        refuse_existing(path, overwrite)
    train, name = training_images(data, progress, loading)
    check_classes(train.classes)
    if task.recipe.observer is not None and handed(name):
        task = replace(task, recipe=task.recipe.without_flip())
        progress.note("images are not mirrored: the data's name says digits or characters")
    if subtasks is not None:
        from attar.subtasks import distill_subtasks  # which distils each part by `distill_images`

        return distill_subtasks(
            task, train, name, subtasks, split or "contiguous", engine or Local(), path, overwrite, progress
        )
    spaces = Spaces.of(task.recipe, train)
    count = num_codes_per_class(task, spaces, train, name, progress)
    return distill_images(task, train, name, spaces, count, path, overwrite, progress)


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
