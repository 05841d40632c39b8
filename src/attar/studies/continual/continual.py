"""Class-incremental learning with a distilled replay memory, beside random images of the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.data.mirroring import mirroring_harms
from attar.data.sources import load_images
from attar.evaluation.evaluate import FEW_SEEDS, device_name, seed_numbers, with_depth
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import Protocol, check_judges, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.methods.recipes import Recipe
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import networks_named
from attar.runs.budget import Budget
from attar.runs.distill import distill
from attar.runs.task import Run, Task, resolve_task
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RATE
from attar.studies.continual.card import ContinualCard, Step
from attar.studies.continual.memories import Groups, candidates

FORMAT = 1
CHECKPOINT_STEPS = 100


def continual(
    data: Any,
    recipe: Recipe | str = "lic",
    *,
    steps: int = 5,
    budget: str = "10ipc",
    protocol: str | Path | Protocol = "quick",
    networks: Sequence[str | NetworkConfig] | str | NetworkConfig | None = None,
    seeds: int | Sequence[int] | None = None,
    order_seed: int | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    cache: bool = True,
    progress: Progress | None = None,
    **loading: Any,
) -> ContinualCard:
    """Learn classes group by group, remembering the earlier ones by what was distilled of them.

    The classes are split into groups. At each step the images of one group alone are distilled, by an observer of this
    group alone, and added to the memory; networks are trained from scratch on the memory of all classes seen so far,
    and tested on all of these. Beside it, in the same bytes of memory: random real images, uint8 with one label each,
    and where the recipe has region labels, random images labelled by the same observers. All rows have the same seeds.

    The memory only grows. A number of bytes is a cap for all classes together, labels and manifests included: a group
    gets its classes' share of it, so that no step exceeds it.

    Distilled groups are kept under $ATTAR_CACHE/continual and scores under scores, by everything that they depend on:
    after Ctrl-C or a kill the same call goes on where it was, and ends in the same accuracies.

    Args:
        data: Splits, or anything `load_images` takes.
        recipe: a name in `recipes.REGISTRY`, or a Recipe.
        steps: how many groups, as equal as can be; each has at least 2 classes.
        budget: "10ipc" or "120lpc" of each class, or "500kB", the most that the whole memory may take.
        protocol: how networks are trained, see `evaluate`; its learned-rate option has no effect.
        networks: e.g. ("convnet", "resnet18"); None takes the protocol's.
        seeds: how many (0, 1, ...), or which; None: as the protocol has it.
        order_seed: shuffles the classes before they are grouped; None keeps their order.
        seed: every random choice of distilling derives from it.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted recipe settings to replace, e.g. {"steps": 50}.
        cache: False neither reads nor writes distilled groups and scores.
        progress: what to report to.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data, recipe, steps or budget that will not do; all but too few images of a class before any work.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.

    Source: LIC appendix G, after SRe2L: five steps, 10 images per class; training from scratch on the memory:
        Zhao & Bilen 2023 (DM) section 4.3, after Prabhu et al. 2020 (GDumb).
    Deviation: a group's observer knows its own classes alone, so that its labels say nothing of all others: they get a
        logit of -1e9 (see `ReplayItems`). Networks see images normalised as the first group's, which is all that is
        known at first. The papers compare with other methods' memories; the rows of random images are ours. A step's
        own real images are not trained on beside the memory.
    """
    progress = progress or Silent()
    chosen = protocol_named(protocol)
    numbers = seed_numbers(chosen.seeds if seeds is None else seeds)
    asked = chosen.networks if networks is None else networks
    networks_named(asked)
    task = resolve_task(recipe, budget, seed, device, settings, checkpoint_steps=CHECKPOINT_STEPS)
    _check_recipe(task, chosen)
    splits = data if isinstance(data, Splits) else load_images(data, progress=progress, **loading)
    check_judges(chosen, task.recipe.labels.kind, splits.train.image_shape)
    configs = networks_named(asked, splits.train.image_shape)
    groups = class_groups(splits.train.num_classes, steps, order_seed)
    if task.recipe.observer is not None and mirroring_harms(splits.name):
        task = replace(task, recipe=task.recipe.without_flip())
    work = _Work(task, splits, groups, budget, cache, progress)
    work.check()
    used = resolve_flip(chosen, None, splits.name)
    depth = min(splits.train.image_shape[1:])
    job = Measurement(used, numbers, [with_depth(each, depth) for each in configs], task.device, cache, progress)
    done, memory = [], []
    for number, group in enumerate(groups):
        progress.note(
            f"step {number + 1} of {steps}: {', '.join(splits.train.classes[label] for label in group)[:100]}"
        )
        memory.append(work.distilled(number))
        done.append(_step(work, memory, job))
    return ContinualCard.of(
        done,
        recipe=task.recipe.name,
        budget=budget,
        cap=work.cap,
        order_seed=order_seed,
        seed=seed,
        protocol=used,
        data=splits.name,
        test_fingerprint=splits.test.fingerprint,
        train_fingerprint=splits.train.fingerprint,
        image_shape=splits.train.image_shape,
        seeds=numbers,
        device=device_name(task.device),
        versions={"attar": __version__, "torch": torch.__version__},
        notes=tuple(_notes(chosen, used, memory, numbers)),
    )


def class_groups(num_classes: int, steps: int, order_seed: int | None = None) -> list[list[int]]:
    """The classes of each step, as equally many as can be, in their order or in a random one.

    Raises:
        InputError: a group would have fewer than two classes.

    Example:
        >>> class_groups(5, 2)
        [[0, 1, 2], [3, 4]]
    """
    if steps < 1:
        raise InputError(f"{steps} steps were asked for; at least 1 is needed")
    if num_classes < 2 * steps:
        raise InputError(
            f"{num_classes} classes cannot be learned in {steps} steps of at least 2 classes each; "
            f"take at most {num_classes // 2} steps"
        )
    order = torch.arange(num_classes)
    if order_seed is not None:
        order = torch.randperm(num_classes, generator=generator(order_seed, "class order"))
    return [part.tolist() for part in torch.tensor_split(order, steps)]


@dataclass(frozen=True)
class _Work:
    """What every step shares.

    Args:
        task: recipe, budget, seed and device, resolved.
        splits: all classes.
        groups: the classes of each step.
        budget: as asked for.
        cache: whether distilled groups are kept.
        progress: what to report to.
    """

    task: Task
    splits: Splits
    groups: list[list[int]]
    budget: str
    cache: bool
    progress: Progress

    @property
    def cap(self) -> int | None:
        """Bytes of the whole memory; None where the budget is per class."""
        return self.task.budget.amount if self.task.budget.unit == "bytes" else None

    def share(self, number: int) -> str:
        """A group's budget, as `distill` takes it."""
        if self.cap is None:
            return self.budget
        return f"{max(1, self.cap * len(self.groups[number]) // self.splits.train.num_classes)}B"

    def train(self, number: int) -> ImageSet:
        """The training images of a group's classes, and of no other."""
        return self.splits.train.with_classes(self.groups[number])

    def check(self) -> None:
        """Raise InputError for what would stop a later step: no test images, or a cap too small for one group."""
        if not len(self.splits.test.with_classes(self.groups[0])):
            raise InputError(f"{self.splits.name} has no test images of the first classes; give data with a test part")
        if self.cap is None:
            return
        for number in range(len(self.groups)):
            share, train = self.share(number), self.train(number)
            task = replace(self.task, budget=Budget.parse(share))
            try:
                Run.of(task, train, self.splits.name)
            except InputError as error:
                raise InputError(
                    f"a memory of {self.cap} bytes is too small, step {number + 1} may have {share} of it: {error}"
                ) from None

    def distilled(self, number: int) -> DistilledSet:
        """A group's set, made of its images alone; from the cache where it is there."""
        train, task = self.train(number), self.task
        path = self._path(train, self.share(number)) if self.cache else None
        if path is not None and path.exists():
            try:
                return DistilledSet.load(path)
            except InputError as error:
                self.progress.note(f"distilled anew: {error}")
        return distill(
            Splits(train, train, self.splits.name),  # no test image is at hand here
            task.recipe,
            self.share(number),
            out=path,
            seed=task.seed,
            device=str(task.device),
            checkpoint_steps=task.checkpoint_steps,
            overwrite=True,
            progress=self.progress,
        )

    def _path(self, train: ImageSet, share: str) -> Path:
        key = content_key(
            "continual",
            FORMAT,
            self.task.recipe,
            share,
            train.fingerprint,
            self.splits.name,
            self.task.seed,
            self.task.device.type,
            __version__,
            torch.__version__,
        )
        return cache_directory("continual") / f"{key}.attar.safetensors"


def _check_recipe(task: Task, chosen: Protocol) -> None:
    recipe = task.recipe
    if recipe.observer is not None and recipe.observer.weights is not None:
        raise InputError(
            "an observer with given weights has seen other classes than a step's own; leave out observer.weights"
        )
    if chosen.rate_search is not None:
        raise InputError(
            f"protocol {chosen.name!r} searches a learning rate for every row, which a growing memory has no images "
            "for; take one without, e.g. quick"
        )
    if not recipe.labels.asks_observer:
        return
    if chosen.training.soft_loss == "logits":
        raise InputError(
            f"protocol {chosen.name!r} compares the logits of all classes and a step's observer knows its own alone; "
            "take a protocol with soft_loss 'cross-entropy'"
        )
    if getattr(recipe.labels, "storage", None) == "online" and task.budget.unit == "bytes":
        raise InputError(
            "labels that are asked of an observer need its bytes beside the files, which a cap in bytes cannot plan; "
            "set labels.storage to float16, int8 or top-k, or give a budget per class"
        )


def _step(work: _Work, memory: Sequence[DistilledSet], job: Measurement) -> Step:
    """Networks trained on each row's memory of all classes seen so far, and tested on these."""
    seen = [label for group in work.groups[: len(memory)] for label in group]
    test = work.splits.test.with_classes(seen)
    rows = job.run(candidates(Groups(work.splits.train, work.groups), list(memory)), memory[0].preprocess, test)
    return Step(
        classes=memory[-1].classes,
        num_classes=len(seen),
        num_test=len(test),
        fingerprint=memory[-1].fingerprint,
        rows=tuple(row.model_copy(update={"confusion": ()}) for row in rows),
    )


def _notes(chosen: Protocol, used: Protocol, memory: Sequence[DistilledSet], seeds: tuple[int, ...]) -> list[str]:
    notes = ["at each step networks are trained from scratch on the memory alone and tested on all classes seen so far"]
    if not used.comparable:
        notes.append(f"protocol {used.label} is not comparable with published numbers")
    if used != chosen:
        notes.append("training images are not mirrored (flip is left out)")
    if len(seeds) == 1:
        notes.append("n = 1: no spread; no difference can be called real")
    elif len(seeds) < FEW_SEEDS:
        notes.append(f"n = {len(seeds)}: intervals of fewer than {FEW_SEEDS} seeds are very wide")
    if memory[0].manifest.labels_kind == "regions":
        notes.append("labels of a step's observer say nothing of other steps' classes, which get no probability")
    if any(RATE in each.learned for each in memory):
        notes.append(
            f"learned rates of the sets are not used; all rows are trained at {used.training.learning_rate:.6g}"
        )
    external = {weights.id for each in memory for weights in each.storage.external}
    notes += [f"needs public weights or observers beside the files: {', '.join(sorted(external))}"] * bool(external)
    return notes
