"""The only outer loop: real images and a recipe in, a distilled set out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from attar.base.device import is_out_of_memory
from attar.base.errors import InputError, NonFiniteLossError
from attar.base.interrupts import stop_requested
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.methods.labels import SoftLabels, class_logits, network_logits
from attar.methods.labels.checkpoints import forget_kept
from attar.methods.labels.regions import RegionLabels
from attar.methods.objectives.objective import Context, Objective
from attar.methods.parameterizations.parameterization import Parameterization, Spaces
from attar.methods.recipes import Recipe
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.experts.buffer import ExpertBuffer
from attar.models.experts.config import Experts
from attar.models.experts.training import train_experts
from attar.models.networks.registry import build_network
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for
from attar.models.real_items import RealItems
from attar.runs.checkpoints import RunState, run_folder
from attar.runs.memory import plan_memory
from attar.runs.starting import Start, start
from attar.runs.task import Run
from attar.runs.updates import Updates
from attar.sets.distilled import DistilledSet
from attar.sets.relabelling import with_regions


def distill_run(run: Run) -> DistilledSet:
    """Distil all images of a run, saved and resumed as `distill` says."""
    recipe = run.recipe
    regions = run.region_labels  # what cannot be stored is refused now, not after all the work
    observer = observer_of(run)
    begin = start(run, observer)
    state, learned = None, dict[str, float]()
    if begin.real is not None:
        state = RunState(run.path, run.configuration) if run.path is not None else None
        learned = dict(_matched(run, begin, begin.real, observer, state))
    indices = [] if begin.sources is None else begin.sources.indices.tolist()
    result = DistilledSet.build(
        begin.synthetic.cpu(),
        run.spaces.preprocess.cpu(),
        initial=(recipe.initial_kind, indices),
        learned=learned,
        **run.facts,
    )
    return finished(run, result, regions, observer, state)


def finished(
    run: Run, result: DistilledSet, regions: RegionLabels | None, observer: Observer | None, state: RunState | None
) -> DistilledSet:
    """The set with the labels that an observer gives at the end, written where the run says."""
    folder = None if run.path is None else run_folder(run.path) / "labels"
    if regions is not None and observer is not None:
        device, progress = run.task.device, run.progress
        result = with_regions(result, observer, regions, device=device, progress=progress, folder=folder)
    if run.path is not None:
        result.save(run.path, overwrite=run.overwrite)
    if folder is not None:
        forget_kept(folder)
    if state is not None:
        state.finish()
    return result


def _matched(
    run: Run, begin: Start, real: RealItems, observer: Observer | None, state: RunState | None
) -> Mapping[str, float]:
    """Take all steps, which change the items in place; the numbers learned with them."""
    recipe, synthetic = run.recipe, begin.synthetic
    experts = experts_of(recipe, run.spaces.to(run.task.device), run.train, real, run.progress)
    if recipe.labels.taken_at == "start":
        take_soft_labels(recipe, synthetic, run.train.num_classes, experts)
    objective = objective_of(run, begin, real, observer, experts)
    updates = Updates(recipe, synthetic, objective, run.count)

    def match(step: int) -> dict[str, float]:
        return objective.accumulate(synthetic, real, generator(run.task.seed, "step", step))

    try:
        optimise(run, updates, match, state)
    finally:
        if state is not None:
            state.close()
    if recipe.labels.taken_at == "end":
        take_soft_labels(recipe, synthetic, run.train.num_classes, experts)
    return objective.learned()


def training_images(data: Any, progress: Progress, loading: Mapping[str, Any]) -> tuple[ImageSet, str]:
    """The images to distil and the name of where they came from."""
    if isinstance(data, ImageSet):
        return data, "images"
    splits = data if isinstance(data, Splits) else load_images(data, progress=progress, **loading)
    return splits.train, splits.name


def observer_of(run: Run) -> Observer | None:
    """The recipe's observer, trained or loaded, and checked; None where nothing asks for one."""
    config = run.recipe.observer
    return None if config is None else observer_for(config, run.train, run.task.device, run.progress)


def experts_of(
    recipe: Recipe, spaces: Spaces, train: ImageSet, real: RealItems, progress: Progress, **how: Any
) -> ExpertBuffer | None:
    """The recipe's experts, trained as far as they are missing; None where the objective reads none.

    `spaces` and `real`, whose images are `train`, are on the device; `how` goes to `train_experts`.
    """
    settings = recipe.objective.expert_settings
    if settings is None:
        return None
    augmentation = siamese_augmentation(settings.augmentation, spaces.matching, spaces.preprocess)
    return train_experts(settings, augmentation, real, train, spaces.matching, progress=progress, **how)


def take_soft_labels(recipe: Recipe, synthetic: Parameterization, num_classes: int, experts: Experts | None) -> None:
    """Give the items the recipe's soft labels: what a trained expert says of them, or their class."""
    labels, settings = recipe.labels, recipe.objective.expert_settings
    if not isinstance(labels, SoftLabels):
        raise ValueError(f"labels of kind {labels.kind!r} are not taken by the items")
    logits = class_logits(synthetic.labels, num_classes, labels.initial_logit)
    if labels.initial == "expert" and experts is not None and settings is not None:
        items = synthetic.means(torch.arange(len(synthetic), device=synthetic.labels.device))
        channels, height, width = items.shape[1:]
        network = build_network(settings.network, (channels, height, width), num_classes).to(items.device)
        logits = network_logits(network, experts.parameters(0, experts.num_epochs).to(items.device), items)
    synthetic.take_soft_labels(logits, labels.storage)


def objective_of(
    run: Run, begin: Start, real: RealItems, observer: Observer | None, experts: Experts | None
) -> Objective:
    """The recipe's objective on these items, fitted to the memory that there is."""
    spaces, task = run.spaces.to(run.task.device), run.task
    context = Context(
        real.shape,
        run.train.num_classes,
        task.device,
        run.recipe.steps,
        siamese_augmentation(run.recipe.objective.views, spaces.matching, spaces.preprocess),
        experts,
        observer,
        None if begin.sources is None else begin.sources.images,
        spaces.matching.decode,
    )
    plan = plan_memory(run.recipe, context, begin.synthetic, real, task.memory)
    run.progress.note(plan.line)
    return plan.config.build(context)


def optimise(run: Run, updates: Updates, match: Callable[[int], dict[str, float]], state: RunState | None) -> None:
    """Take the recipe's steps, in place; resumes from `state` and saves to it."""
    steps, progress = run.recipe.steps, run.progress
    done, tensors = state.open(run.overwrite) if state else (0, {})
    updates.restore(tensors)
    progress.start(f"distilling with {run.recipe.name}", steps)
    progress.advance(done)
    with stop_requested() as stop:
        for step in range(done, steps):
            updates.clear()
            try:
                figures = _accumulate(updates, functools.partial(match, step), progress)
            except NonFiniteLossError as error:
                raise _stopped(error, step, updates, state) from None
            updates.take(step / steps)
            progress.advance(1, **figures)
            if state:
                state.record(step + 1, figures)
                if stop.is_set() or (step + 1) % run.task.checkpoint_steps == 0 or step + 1 == steps:
                    state.save(step + 1, updates.tensors())
            if stop.is_set():
                raise KeyboardInterrupt
    updates.finish()
    progress.finish()


def _accumulate(updates: Updates, match: Callable[[], dict[str, float]], progress: Progress) -> dict[str, float]:
    """One step's gradients; where memory runs out, once more in chunks of half the size.

    Raises:
        NonFiniteLossError: the loss is not finite; everything is as it was before the step.
    """
    while True:
        before = updates.before_step()
        try:
            figures = match()
            if not math.isfinite(figures["loss"]):
                raise NonFiniteLossError(
                    f"the loss is {figures['loss']}; lower the rate (--set optimizer.learning_rate=...)"
                )
            return figures
        except NonFiniteLossError:
            updates.put_back(before)
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback would hold on to the tensors that filled the memory.
        updates.clear()
        updates.put_back(before)
        if not updates.halve_memory():
            raise InputError("memory ran out with chunks of one item; take a smaller network, or another device")
        progress.note("memory ran out: from now on in chunks of half the size")


def _stopped(error: NonFiniteLossError, step: int, updates: Updates, state: RunState | None) -> NonFiniteLossError:
    """The same error with the step named, once what the step began from is saved."""
    if state:
        state.save(step, updates.tensors())
    saved = f"; the state after step {step} is saved in {state.folder}; start anew with --overwrite" if state else ""
    return NonFiniteLossError(f"{error} (in step {step + 1}{saved})")
