"""Federated distillation: classes are split into subtasks, each is distilled for itself, and the sets are merged."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attar.base.engines import Engine
from attar.base.errors import InputError
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.methods.labels import RegionLabels
from attar.runs.checkpoints import RunState
from attar.runs.loop import distill_images
from attar.runs.splitting import Split, split_classes
from attar.runs.starting import Spaces
from attar.runs.task import Task, configuration_of, facts_of, num_codes_per_class
from attar.sets.composing import without_folders
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import DataProvenance
from attar.sets.merging import merge


@dataclass(frozen=True)
class _Shared:
    """What all parts have in common.

    Args:
        task: of the whole run, with its seed.
        train: the images of all classes.
        name: where they came from.
        spaces: fitted to all of them, so that the parts' network inputs are of one space.
        count: codes or priors of each class.
    """

    task: Task
    train: ImageSet
    name: str
    spaces: Spaces
    count: int


@dataclass(frozen=True)
class _Part:
    """A subtask: its classes, and the file that it is finished with, if any."""

    classes: tuple[int, ...]
    path: Path | None


def distill_subtasks(
    task: Task,
    train: ImageSet,
    name: str,
    subtasks: int,
    split: Split,
    engine: Engine,
    path: Path | None,
    overwrite: bool,
    progress: Progress,
) -> DistilledSet:
    """Split the classes, distil each part with experts or an observer of its own, and merge in the data set's order.

    All parts have the codec and the normalisation of all training images. Each part's seed is `part_seed`. Finished
    parts are ordinary files in NAME.run/parts; a run that was stopped goes on with the others, and ends in the same
    bytes.

    Args:
        task: recipe, budget of the whole, seed, device.
        train: the images of all classes.
        name: where they came from.
        subtasks: how many parts.
        split: how classes are split.
        engine: where parts are distilled.
        path: the file to write, or None.
        overwrite: see `distill`.
        progress: told which part runs.

    Raises:
        InputError: see `distill`; too many parts, region labels, or an observer of all classes.

    Source: D3 (Qin et al. 2024) section 2.3.
    Deviation: codec and normalisation are those of the whole training data, as in the official code; a party that sees
        its own classes alone distils a file of its own, and `merge` pools the normalisations.
    """
    _check(task)
    engine.check_device(task.device)
    groups = split_classes(train, subtasks, split, task.seed)
    task = replace(task, subtasks=(subtasks, split))
    spaces = Spaces.of(task.recipe, train)
    count = num_codes_per_class(task, spaces, train, name, progress, [len(group) for group in groups])
    state = None if path is None else RunState(path, configuration_of(task, spaces.codec, train, count))
    folder = None if state is None else _begin(state, overwrite, subtasks)
    jobs = [_Part(tuple(group), folder and part_file(folder, place)) for place, group in enumerate(groups)]
    called = [", ".join(train.classes[label] for label in group) for group in groups]
    named = [f"part {place}: {names:.100}" for place, names in enumerate(called, 1)]
    shared, parts = _Shared(task, train, name, spaces, count), {}
    try:
        with closing(engine.results(distill_part, jobs, shared, progress, named)) as found:
            for place, part in found:
                parts[place] = _kept(part, jobs[place])
    finally:
        if state is not None:
            state.close()
    result = _whole([parts[place] for place in range(len(jobs))], task, spaces, train, name)
    if path is not None:
        result.save(path, overwrite=overwrite)
    if state is not None:
        state.finish()
    return result


def distill_part(shared: _Shared, part: _Part, progress: Progress) -> DistilledSet:
    """The set of one part: read where it is finished, else distilled, or gone on with from its last saved step."""
    train = shared.train.with_classes(part.classes)
    task = replace(shared.task, subtasks=None, seed=part_seed(shared.task.seed, train.classes))
    done = _finished(part, task, train, shared.spaces)
    if done is not None:
        progress.note("this part is finished already")
        return done
    return distill_images(task, train, shared.name, shared.spaces, shared.count, part.path, True, progress)


def _kept(done: DistilledSet, part: _Part) -> DistilledSet:
    """The set of a part; its file is written where its worker wrote another machine's."""
    if part.path is not None and not part.path.exists():
        done.save(part.path)
    return done


def part_seed(seed: int, classes: tuple[str, ...]) -> int:
    """The seed of a part: of the run's and of the names of the part's classes; another part has another.

    first 63 bits of sha256(seed, "subtask", names), modulo 2^32
    """
    return generator(seed, "subtask", *classes).initial_seed() % 2**32


def part_file(folder: Path, place: int) -> Path:
    """The file of a part, counted from 0."""
    return folder.absolute() / f"part-{place + 1}.attar.safetensors"


def _check(task: Task) -> None:
    recipe = task.recipe
    if isinstance(recipe.labels, RegionLabels):
        raise InputError(
            f"recipe {recipe.name!r} has region labels, and a subtask's observer knows its own classes alone; leave "
            'out --subtasks, or take other labels: --set \'labels={"kind": "hard"}\''
        )
    if recipe.observer is not None and recipe.observer.weights is not None:
        raise InputError(
            "an observer with given weights knows all classes, and each subtask needs one of its own; leave out "
            "observer.weights"
        )


def _begin(state: RunState, overwrite: bool, subtasks: int) -> Path:
    """Start or go on with a run of parts: the folder of their files, empty at the start."""
    _, saved = state.open(overwrite)
    folder = state.folder / "parts"
    if not saved:
        if folder.exists():  # of an earlier run
            shutil.rmtree(folder)
        state.save(0, {"subtasks": torch.tensor([subtasks])})
    folder.mkdir(exist_ok=True)
    return folder


def _finished(part: _Part, task: Task, train: ImageSet, spaces: Spaces) -> DistilledSet | None:
    """The part's set where its file is there and whole."""
    if part.path is None or not part.path.exists():
        return None
    with suppress(InputError):  # damaged: it is distilled again
        found = DistilledSet.load(part.path)
        about = found.manifest
        known = (about.seed, about.data.fingerprint, about.preprocess.identity)
        return found if known == (task.seed, train.fingerprint, spaces.preprocess.identity()) else None
    return None


def _whole(parts: list[DistilledSet], task: Task, spaces: Spaces, train: ImageSet, name: str) -> DistilledSet:
    """The parts as one set, with the provenance of the whole run."""
    recipe = without_folders(facts_of(task, spaces.codec, train, name)["recipe"])
    data = DataProvenance(name=without_folders(name), fingerprint=train.fingerprint, num_items=len(train))
    whole = merge(parts, order=train.classes)
    whole = whole.replace(recipe=recipe, citations=recipe["citations"], data=data, seed=task.seed)
    limit = task.budget.amount if task.budget.unit == "bytes" else None
    assert limit is None or whole.file_bytes <= limit, f"{whole.file_bytes} bytes are more than the budget's {limit}"
    return whole
