"""Class-incremental learning with a distilled replay memory, beside random images of the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.base.errors import InputError
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import Splits
from attar.data.mirroring import mirroring_harms
from attar.data.sources import load_images
from attar.evaluation.evaluate import Conditions, device_name, protocol_notes, seed_notes, versions
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import Protocol, check_judges
from attar.methods.recipes import Recipe
from attar.models.networks.network import NetworkConfig
from attar.runs.budget import Budget
from attar.runs.task import Run, Task, resolve_task
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RATE
from attar.studies.continual.card import ContinualCard, Step
from attar.studies.continual.memories import Groups, candidates
from attar.studies.distillation import CHECKPOINT_STEPS, Distillation


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

    At each step the images of one group alone are distilled, and added to the memory; networks are trained from scratch
    on the memory of all classes so far, and tested on these. Beside it, in the same bytes: random real images, and for
    region labels random images labelled by the same observers. Groups and scores are kept under $ATTAR_CACHE: after
    Ctrl-C the same call goes on where it was, and ends in the same accuracies.

    Args:
        data: Splits, or anything `load_images` takes, with `loading`.
        recipe, seed, device, settings: of distilling each group, as of `distill`.
        steps: how many groups, as equal as can be; each has at least 2 classes.
        budget: "10ipc" or "120lpc" of each class, or "500kB", the most that the whole memory may take, of which a group
            gets its classes' share.
        protocol, networks, seeds, progress: as of `evaluate`; the protocol's learned-rate option has no effect.
        order_seed: shuffles the classes before they are grouped; None keeps their order.
        cache: False neither reads nor writes distilled groups and scores.

    Raises:
        InputError: data, recipe, steps or budget that will not do; all but too few images of a class before any work.

    Source: LIC appendix G, after SRe2L; training from scratch on the memory: Zhao & Bilen 2023 (DM) section 4.3.
    Deviation: an observer knows its own group's classes alone; all others get a logit of -1e9 (see `ReplayItems`), and
        networks see images normalised as the first group's. Rows of random images are ours.
    """
    conditions = Conditions.of(protocol, networks, seeds, None, device, cache, progress)
    task = resolve_task(recipe, budget, seed, device, settings, checkpoint_steps=CHECKPOINT_STEPS)
    _check_recipe(task, conditions.protocol)
    splits = data if isinstance(data, Splits) else load_images(data, progress=conditions.progress, **loading)
    shape = splits.train.image_shape
    check_judges(conditions.protocol, task.recipe.labels.kind, shape)
    if task.recipe.observer is not None and mirroring_harms(splits.name):
        task = replace(task, recipe=task.recipe.without_flip())
    groups = Groups(splits.train, class_groups(splits.train.num_classes, steps, order_seed))
    job = conditions.measurement(shape, shape, splits.name)
    experiment = _Experiment(task, splits, groups, budget, job)
    experiment.check()
    return experiment.card(*experiment.steps(), conditions.protocol, order_seed)


@dataclass(frozen=True)
class _Experiment:
    """All steps: what each group is distilled by, in a budget as asked for, and how networks learn from the memory."""

    task: Task
    splits: Splits
    groups: Groups
    budget: str
    job: Measurement

    @property
    def cap(self) -> int | None:
        """Bytes of the whole memory; None where the budget is per class."""
        return self.task.budget.amount if self.task.budget.unit == "bytes" else None

    def distillation(self, number: int) -> Distillation:
        """Of a group's images alone, in its share of the budget."""
        train, task, share = self.groups.images(number), self.task, self.budget
        if self.cap is not None:
            share = f"{max(1, self.cap * train.num_classes // self.splits.train.num_classes)}B"
        return Distillation("continual", task.recipe, share, train, self.splits.name, task.seed, task.device)

    def check(self) -> None:
        """Raise InputError for what would stop a later step: no test images, or a cap too small for one group."""
        if not len(self.splits.test.with_classes(self.groups.classes[0])):
            raise InputError(f"{self.splits.name} has no test images of the first classes; give data with a test part")
        if self.cap is None:
            return
        for number in range(len(self.groups.classes)):
            group = self.distillation(number)
            task = replace(self.task, budget=Budget.parse(group.budget))
            try:
                Run.of(task, group.train, group.data)
            except InputError as error:
                raise InputError(
                    f"a memory of {self.cap} bytes is too small, step {number + 1} may have {group.budget} of it: "
                    f"{error}"
                ) from None

    def steps(self) -> tuple[list[Step], list[DistilledSet]]:
        """Every step, and the memory after the last: each group is distilled when its turn comes."""
        steps: list[Step] = []
        memory: list[DistilledSet] = []
        for number, group in enumerate(self.groups.classes):
            names = ", ".join(self.splits.train.classes[label] for label in group)
            self.job.progress.note(f"step {number + 1} of {len(self.groups.classes)}: {names[:100]}")
            memory.append(self.distillation(number).run(self.job.cache, self.job.progress))
            classes = [label for group in self.groups.classes[: number + 1] for label in group]
            test = self.splits.test.with_classes(classes)
            rows = self.job.run(candidates(self.groups, memory), memory[0].preprocess, test)
            steps.append(
                Step(
                    classes=memory[-1].classes,
                    num_classes=len(classes),
                    num_test=len(test),
                    fingerprint=memory[-1].fingerprint,
                    rows=tuple(row.model_copy(update={"confusion": ()}) for row in rows),
                )
            )
        return steps, memory

    def card(
        self, steps: Sequence[Step], memory: Sequence[DistilledSet], chosen: Protocol, order_seed: int | None
    ) -> ContinualCard:
        """The card of all steps and of the memory after them; `chosen` is the protocol before its flip was resolved."""
        return ContinualCard.of(
            steps,
            recipe=self.task.recipe.name,
            budget=self.budget,
            cap=self.cap,
            order_seed=order_seed,
            seed=self.task.seed,
            protocol=self.job.protocol,
            data=self.splits.name,
            test_fingerprint=self.splits.test.fingerprint,
            train_fingerprint=self.splits.train.fingerprint,
            image_shape=self.splits.train.image_shape,
            seeds=self.job.seeds,
            device=device_name(self.task.device),
            versions=versions(),
            notes=tuple(_notes(chosen, self.job, memory)),
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


def _notes(chosen: Protocol, job: Measurement, memory: Sequence[DistilledSet]) -> list[str]:
    notes = ["at each step networks are trained from scratch on the memory alone and tested on all classes seen so far"]
    notes += [*protocol_notes(chosen, job.protocol), *seed_notes(job.seeds)]
    if memory[0].manifest.labels_kind == "regions":
        notes.append("labels of a step's observer say nothing of other steps' classes, which get no probability")
    if any(RATE in distilled.learned for distilled in memory):
        rate = job.protocol.training.learning_rate
        notes.append(f"learned rates of the sets are not used; all rows are trained at {rate:.6g}")
    external = {weights.id for distilled in memory for weights in distilled.storage.external}
    if external:
        notes.append(f"needs public weights or observers beside the files: {', '.join(sorted(external))}")
    return notes
