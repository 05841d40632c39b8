"""Federated distillation: classes are split into subtasks, each is distilled for itself, and the sets are merged."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attar.base.engines import Engine
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.methods.labels import HardLabels
from attar.methods.recipes import Recipe
from attar.runs.checkpoints import RunState
from attar.runs.loop import distill_run, finished, observer_of
from attar.runs.task import Run
from attar.sets.composing import without_folders
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import DataProvenance
from attar.sets.merging import merge


@dataclass(frozen=True)
class _Part:
    """A subtask: its classes, and the file that it is finished with, if any."""

    classes: tuple[int, ...]
    path: Path | None


def distill_subtasks(run: Run, engine: Engine) -> DistilledSet:
    """Distil each group of a run's classes with experts or an observer of its own; merge in the data set's order.

    All parts have the codec and the normalisation of all training images. Each part's seed is `part_seed`. Finished
    parts are ordinary files in NAME.run/parts; a run that was stopped goes on with the others, and ends in the same
    bytes. Region labels are given to the merged set, by an observer of all classes.

    Args:
        run: of all classes, with `groups`.
        engine: where parts are distilled.

    Raises:
        InputError: see `distill`; an observer of all classes that each part would need of its own.

    Source: D3 (Qin et al. 2024) section 2.3.
    Deviation: codec and normalisation are those of the whole training data, as in the official code; a party that sees
        its own classes alone distils a file of its own, and `merge` pools the normalisations.
    """
    _check(run.recipe)
    engine.check_device(run.task.device)
    regions = run.region_labels
    state = None if run.path is None else RunState(run.path, run.configuration)
    folder = None if state is None else _begin(state, run)
    jobs = [_Part(tuple(group), folder and part_file(folder, place)) for place, group in enumerate(run.groups)]
    class_lists = [", ".join(run.train.classes[label] for label in group) for group in run.groups]
    titles = [f"part {place}: {classes:.100}" for place, classes in enumerate(class_lists, 1)]
    parts = {}
    try:
        # This may be pickled for workers elsewhere, which a progress bar cannot be; parts have paths of their own.
        shared = replace(run, path=None, progress=Silent())
        with closing(engine.results(distill_part, jobs, shared, run.progress, titles)) as results:
            for place, part in results:
                parts[place] = _kept(part, jobs[place])
    finally:
        if state is not None:
            state.close()
    whole = _whole([parts[place] for place in range(len(jobs))], run)
    observer = None if regions is None else observer_of(run)
    return finished(run, whole, regions, observer, state)


def distill_part(whole: Run, part: _Part, progress: Progress) -> DistilledSet:
    """The set of one part: read where it is finished, else distilled, or gone on with from its last saved step."""
    train = whole.train.with_classes(part.classes)
    recipe = _part_recipe(whole)
    task = replace(whole.task, recipe=recipe, subtasks=None, seed=part_seed(whole.task.seed, train.classes))
    run = replace(whole, task=task, train=train, path=part.path, overwrite=True, progress=progress, groups=())
    done = _finished(run)
    if done is not None:
        progress.note("this part is finished already")
        return done
    return distill_run(run)


def part_seed(seed: int, classes: tuple[str, ...]) -> int:
    """The seed of a part: of the run's and of the names of the part's classes; another part has another.

    first 63 bits of sha256(seed, "subtask", names), modulo 2^32
    """
    return generator(seed, "subtask", *classes).initial_seed() % 2**32


def part_file(folder: Path, place: int) -> Path:
    """The file of a part, counted from 0."""
    return folder.absolute() / f"part-{place + 1}.attar.safetensors"


def _part_recipe(whole: Run) -> Recipe:
    """The recipe without labels that an observer of all classes gives to the merged set."""
    recipe = whole.recipe
    if not recipe.labels.asks_observer:
        return recipe
    observer = recipe.observer if set(recipe.observed) - {"labels"} else None
    return recipe.model_copy(update={"labels": HardLabels(), "observer": observer})


def _check(recipe: Recipe) -> None:
    if recipe.observer is not None and recipe.observer.weights is not None and set(recipe.observed) - {"labels"}:
        raise InputError(
            "an observer with given weights knows all classes, and each subtask needs one of its own; leave out "
            "observer.weights"
        )


def _kept(done: DistilledSet, part: _Part) -> DistilledSet:
    """The set of a part; its file is written where its worker wrote another machine's."""
    if part.path is not None and not part.path.exists():
        done.save(part.path)
    return done


def _begin(state: RunState, run: Run) -> Path:
    """Start or go on with a run of parts: the folder of their files, empty at the start."""
    _, saved = state.open(run.overwrite)
    folder = state.folder / "parts"
    if not saved:
        if folder.exists():  # of an earlier run
            shutil.rmtree(folder)
        state.save(0, {"subtasks": torch.tensor([len(run.groups)])})
    folder.mkdir(exist_ok=True)
    return folder


def _finished(run: Run) -> DistilledSet | None:
    """The part's set where its file is there and whole."""
    if run.path is None or not run.path.exists():
        return None
    with suppress(InputError):  # damaged: it is distilled again
        done = DistilledSet.load(run.path)
        about, preprocess = done.manifest, run.spaces.preprocess.identity()
        facts = about.seed, about.data.fingerprint, about.preprocess.identity
        return done if facts == (run.task.seed, run.train.fingerprint, preprocess) else None
    return None


def _whole(parts: list[DistilledSet], run: Run) -> DistilledSet:
    """The parts as one set, with the provenance of the whole run."""
    train, budget = run.train, run.task.budget
    recipe = without_folders(run.facts["recipe"])
    data = DataProvenance(name=without_folders(run.name), fingerprint=train.fingerprint, num_items=len(train))
    whole = merge(parts, order=train.classes)
    whole = whole.replace(recipe=recipe, citations=recipe["citations"], data=data, seed=run.task.seed)
    limit = budget.amount if budget.unit == "bytes" else None
    assert limit is None or whole.file_bytes <= limit, f"{whole.file_bytes} bytes are more than the budget's {limit}"
    return whole
