"""`attar.distill`: what a user gives, checked and turned into one run, or into one run for each subtask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.base.engines import Engine, Local
from attar.base.errors import InputError
from attar.base.files import refuse_existing
from attar.base.progress import Progress, Silent
from attar.data.mirroring import mirroring_harms
from attar.methods.recipes import Recipe
from attar.runs.loop import distill_run, training_images
from attar.runs.splitting import Split
from attar.runs.subtasks import distill_subtasks
from attar.runs.task import Run, Task, resolve_task
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import check_classes


def distill(
    data: Any,
    recipe: Recipe | str = "latent-dm",
    budget: str | None = None,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    subtasks: int | None = None,
    split: Split | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    codec: str | None = None,
    storage: str | None = None,
    label_bytes: str | None = None,
    checkpoint_steps: int = 100,
    memory: str | None = None,
    **loading: Any,
) -> DistilledSet:
    """Distil the training part of `data` into a set of the chosen size, quantised as it is stored.

    Args:
        data: anything `load_images` takes, or Splits, or an ImageSet (all of it is distilled).
        recipe: a name in `recipes.REGISTRY`, or a Recipe.
        budget: "10ipc", "120lpc" or "5MB" (the whole file); None takes the recipe's.
        out: the file to write, or None. The state is saved in NAME.run beside it; after Ctrl-C or a kill the same call
            goes on from there and ends in the same file.
        overwrite: replace an existing `out`, and forget an unfinished run of another configuration.
        progress: what to report to.
        subtasks: parts that the classes are split into, each distilled for itself and all merged (`subtasks.py`).
        split: how: "contiguous" (the usual), "random", "similarity"; only with `subtasks`, like `engine`.
        engine: where the parts are distilled; None is one after another in this process.
        seed: every random choice derives from it.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted recipe settings to replace, e.g. {"steps": 50, "objective.network.width": 64}.
        codec: text of another codec, e.g. "pca:f4c8" or "autoencoder:FOLDER".
        storage: "float32", "float16" or "int8"; None takes the recipe's.
        label_bytes: the most that region labels may take, e.g. "500kB"; None takes the recipe's.
        checkpoint_steps: steps between two saved states.
        memory: the most that may be taken, e.g. "8GB"; None is four fifths of what the device has free.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data, recipe, budget or output that will not do; nothing is written then.
        NonFiniteLossError: the loss stopped being finite; the last good state is saved.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.

    Example:
        >>> small = distill("digits", budget="1ipc", settings={"steps": 2})
        >>> len(small), small.num_classes
        (40, 10)
    """
    options = seed, device, settings, codec, storage, checkpoint_steps, memory, label_bytes
    task = replace(resolve_task(recipe, budget, *options), subtasks=_subtasks(subtasks, split, engine))
    if out is not None:
        refuse_existing(Path(out), overwrite)
    run = _run(data, task, None if out is None else Path(out), overwrite, progress or Silent(), loading)
    return distill_run(run) if subtasks is None else distill_subtasks(run, engine or Local())


def _subtasks(subtasks: int | None, split: Split | None, engine: Engine | None) -> tuple[int, Split] | None:
    """How a run is split; None where it is whole."""
    if subtasks is not None:
        return subtasks, split or "contiguous"
    if split is not None or engine is not None:
        raise InputError(f"{'split' if split else 'engine'} has no effect without subtasks; give --subtasks, e.g. 2")
    return None


def _run(
    data: Any, task: Task, path: Path | None, overwrite: bool, progress: Progress, loading: Mapping[str, Any]
) -> Run:
    train, name = training_images(data, progress, loading)
    check_classes(train.classes)
    if task.recipe.observer is not None and mirroring_harms(name):
        task = replace(task, recipe=task.recipe.without_flip())
        progress.note("images are not mirrored: the data's name says digits or characters")
    return Run.of(task, train, name, path, overwrite, progress)
