"""What each row of a class-incremental experiment remembers: distilled sets, or random images in the same bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import content_key
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.evaluation.candidates import Candidate, absent_candidate, image_items, network_inputs
from attar.evaluation.relabelled import known_observer, labelled_alike, regions_of
from attar.evaluation.rows import DISTILLED, NAMES
from attar.methods.parameterizations.codes import Codes
from attar.models.observers.observer import Observer
from attar.models.training.items import TrainingItems
from attar.sets.distilled import DistilledSet
from attar.sets.sizes import online_observers
from attar.studies.continual.replay import ReplayItems, Share

FORMAT = 1
RANDOM, ALIKE = NAMES["random-uint8"], NAMES["same-labels"]
CLASSES_OF_A_BYTE = 256


@dataclass(frozen=True)
class Groups:
    """The real images that random ones are drawn from, class group by class group.

    Args:
        train: the training images of all classes.
        classes: labels of each group.
    """

    train: ImageSet
    classes: list[list[int]]

    @property
    def image_bytes(self) -> int:
        """Of a plain uint8 image with its label."""
        channels, height, width = self.train.image_shape
        return channels * height * width + (1 if self.train.num_classes <= CLASSES_OF_A_BYTE else 2)

    def draw(self, number: int, count: int, seed: int) -> list[Tensor]:
        """Indices of up to `count` random images for each class of a group: the same at every later step."""
        drawn = []
        for label in self.classes[number]:
            members = self.train.class_indices[label]
            order = torch.randperm(len(members), generator=generator(seed, "replay", label))
            drawn.append(members[order[:count]])
        return drawn

    def num_drawn(self, number: int, count: int) -> int:
        """How many images `draw` gives."""
        return sum(min(count, len(self.train.class_indices[label])) for label in self.classes[number])


def memory_bytes(distilled: DistilledSet) -> int:
    """What a group's set takes in memory: its file, labels included, and the observer that its labels are asked of."""
    return distilled.file_bytes + sum(facts.num_bytes for facts in online_observers(distilled.manifest))


def candidates(groups: Groups, memory: list[DistilledSet]) -> list[Candidate]:
    """The rows for the sets of the first groups; random images labelled alike where these have region labels."""
    rows = [_replay(memory), _random(groups, memory)]
    if regions_of(memory[0]) is not None:
        rows.append(_labelled_alike(groups, memory))
    return rows


def _replay(memory: list[DistilledSet]) -> Candidate:
    fingerprints = [each.fingerprint for each in memory]

    @functools.cache
    def items(device: torch.device) -> TrainingItems:
        preprocess = memory[0].preprocess.to(device)
        shares, first = [], 0
        for each in memory:
            observer = _observer(each).to(device) if online_observers(each.manifest) else None
            shares.append(Share(each.training_items(device, observer), each.preprocess.to(device), first))
            first += each.num_classes
        return ReplayItems(shares, preprocess, first)

    return Candidate(
        DISTILLED,
        sum(each.num_training_items for each in memory),
        sum(each.storage.paper_bytes for each in memory),
        sum(map(memory_bytes, memory)),
        ("replay", FORMAT, fingerprints),
        lambda seed: items,
    )


def _observer(distilled: DistilledSet) -> Observer:
    found = known_observer(distilled)
    if isinstance(found, str):
        raise InputError(found)
    return found


def _random(groups: Groups, memory: list[DistilledSet]) -> Candidate:
    """Plain images of every group in the bytes of its distilled set."""
    preprocess = memory[0].preprocess
    counts = [memory_bytes(each) // (each.num_classes * groups.image_bytes) for each in memory]
    num_items = sum(map(groups.num_drawn, range(len(counts)), counts))

    def items(seed: int, device: torch.device) -> TrainingItems:
        drawn = [groups.draw(number, count, seed) for number, count in enumerate(counts)]
        labels = torch.repeat_interleave(torch.tensor([len(each) for part in drawn for each in part]))
        images = groups.train.images[torch.cat([each for part in drawn for each in part])]
        return image_items(images, labels, preprocess, device)

    return _images_row(RANDOM, groups, memory, counts, "", num_items * groups.image_bytes, num_items, items)


def _labelled_alike(groups: Groups, memory: list[DistilledSet]) -> Candidate:
    """Random images with region labels by the same observers: both together in the bytes of the distilled set."""
    found = [known_observer(each) for each in memory]
    observers = [each for each in found if not isinstance(each, str)]
    if len(observers) < len(memory):
        return absent_candidate(ALIKE, next(each for each in found if isinstance(each, str)))
    labels = [_label_bytes_per_item(each) for each in memory]
    counts = [
        each.file_bytes // (each.num_classes * (groups.image_bytes + own))
        for each, own in zip(memory, labels, strict=True)
    ]
    each_group = list(map(groups.num_drawn, range(len(counts)), counts))
    taken = sum(count * (groups.image_bytes + own) for count, own in zip(each_group, labels, strict=True))
    taken += sum(memory_bytes(each) - each.file_bytes for each in memory)

    def items(seed: int, device: torch.device) -> TrainingItems:
        shares, first = [], 0
        for number, (each, count) in enumerate(zip(memory, counts, strict=True)):
            regions, own = regions_of(each), each.preprocess
            assert regions is not None
            drawn = groups.draw(number, count, seed)
            images = network_inputs(groups.train.images[torch.cat(drawn)], own, torch.device("cpu"))
            members = torch.repeat_interleave(torch.tensor([len(part) for part in drawn]))
            items = Codes(own, images, members)
            labelled = labelled_alike(items, regions, own, observers[number], each.classes, device)
            shares.append(Share(labelled, own.to(device), first))
            first += each.num_classes
        return ReplayItems(shares, memory[0].preprocess.to(device), first)

    about = content_key(*map(_regions_key, memory))
    return _images_row(ALIKE, groups, memory, counts, about, taken, sum(each_group), items)


def _regions_key(distilled: DistilledSet) -> list[Any]:
    regions = regions_of(distilled)
    assert regions is not None and regions.observer is not None
    return [regions.labels, regions.seed, regions.observer.identity, distilled.preprocess.identity()]


def _label_bytes_per_item(distilled: DistilledSet) -> int:
    """Stored region labels of one canvas; 0 where they are asked of the observer."""
    regions = regions_of(distilled)
    stored = sum(spec.num_bytes for spec in regions.tensors.values()) if regions is not None else 0
    return stored // distilled.num_training_items


def _images_row(
    name: str,
    groups: Groups,
    memory: list[DistilledSet],
    counts: list[int],
    about: str,
    taken: int,
    num_items: int,
    items: Callable[[int, torch.device], TrainingItems],
) -> Candidate:
    if not min(counts):
        return absent_candidate(
            name, f"{min(map(memory_bytes, memory))} bytes of a step hold no such image of each class"
        )
    seen = groups.classes[: len(memory)]
    asked = sum(count * len(classes) for count, classes in zip(counts, seen, strict=True))
    fewer = ", or all that there are" if num_items < asked else ""

    key = ("replay of images", FORMAT, counts, seen, groups.train.fingerprint, about)
    told = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    note = f"{told} uint8 images of each class{fewer} (others for each seed; kept from step to step)"
    return Candidate(name, num_items, None, taken, key, lambda seed: functools.partial(items, seed), True, note)
