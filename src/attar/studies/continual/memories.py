"""What each row of a class-incremental experiment remembers: distilled sets, or random images in the same bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.evaluation.candidates import AbsentError, Candidate, absent_candidate, image_items, network_inputs
from attar.evaluation.relabelled import known_observer, labelled_alike, regions_of
from attar.evaluation.rows import DISTILLED, NAMES
from attar.evaluation.variants import online_observer
from attar.methods.parameterizations.codes import Codes
from attar.models.observers.observer import Observer
from attar.models.training.items import TrainingItems
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RegionSpec
from attar.sets.sizes import online_observers
from attar.studies.continual.replay import ReplayItems, Share

FORMAT = 1
RANDOM, ALIKE = NAMES["random-uint8"], NAMES["same-labels"]
CLASSES_OF_A_BYTE = 256


@dataclass(frozen=True)
class Groups:
    """The training images of all classes, and the classes of each group."""

    train: ImageSet
    classes: list[list[int]]

    def images(self, number: int) -> ImageSet:
        """The images of a group's classes, and of no other."""
        return self.train.with_classes(self.classes[number])

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
    regions = [regions for distilled in memory if (regions := regions_of(distilled)) is not None]
    return [*rows, _labelled_alike(groups, memory, regions)] if regions else rows


def _replay(memory: list[DistilledSet]) -> Candidate:
    fingerprints = [distilled.fingerprint for distilled in memory]

    @functools.cache
    def items(device: torch.device) -> TrainingItems:
        shares = []
        for distilled in memory:
            observer = online_observer(distilled)
            items = distilled.training_items(device, observer and observer.to(device))
            shares.append(Share(items, distilled.preprocess.to(device), distilled.num_classes))
        return ReplayItems(shares, memory[0].preprocess.to(device))

    return Candidate(
        DISTILLED,
        sum(distilled.num_training_items for distilled in memory),
        sum(distilled.storage.paper_bytes for distilled in memory),
        sum(map(memory_bytes, memory)),
        ("replay", FORMAT, fingerprints),
        lambda seed: items,
    )


def _random(groups: Groups, memory: list[DistilledSet]) -> Candidate:
    """Plain images of every group in the bytes of its distilled set."""

    def labelled(number: int, images: Tensor, labels: Tensor, device: torch.device) -> TrainingItems:
        return image_items(images, labels, memory[0].preprocess, device)

    budgets = [(memory_bytes(distilled), groups.image_bytes) for distilled in memory]
    return _images(RANDOM, groups, memory, budgets, labelled)


def _labelled_alike(groups: Groups, memory: list[DistilledSet], regions: list[RegionSpec]) -> Candidate:
    """Random images with region labels by the same observers: both together in the bytes of the distilled set."""
    observers: list[Observer] = []
    budgets, about = [], []
    for distilled, region in zip(memory, regions, strict=True):
        try:
            observer = known_observer(distilled)
        except AbsentError as reason:
            return absent_candidate(ALIKE, str(reason))
        observers.append(observer)
        label_bytes = sum(spec.num_bytes for spec in region.tensors.values()) // distilled.num_training_items
        budgets.append((distilled.file_bytes, groups.image_bytes + label_bytes))
        preprocess = distilled.preprocess.identity()
        about.append([region.labels, region.seed, observer.identity, preprocess])

    def labelled(number: int, images: Tensor, labels: Tensor, device: torch.device) -> TrainingItems:
        distilled, preprocess = memory[number], memory[number].preprocess
        codes = Codes(preprocess, network_inputs(images, preprocess, torch.device("cpu")), labels)
        return labelled_alike(codes, regions[number], preprocess, observers[number], distilled.classes, device)

    return _images(ALIKE, groups, memory, budgets, labelled, about)


def _images(
    name: str,
    groups: Groups,
    memory: list[DistilledSet],
    budgets: list[tuple[int, int]],
    labelled: Callable[[int, Tensor, Tensor, torch.device], TrainingItems],
    about: Any = None,
) -> Candidate:
    """A row of random images in the bytes of the sets of a memory.

    Args:
        name, groups, memory: of the row, the images and the sets.
        budgets: for each group the bytes of its images, and those of one image with its labels.
        labelled: number of a group, images, labels among its classes and device -> items.
        about: what the items depend on beside the images.
    """
    classes = groups.classes[: len(memory)]
    counts = [total // (len(group) * size) for group, (total, size) in zip(classes, budgets, strict=True)]
    if not min(counts):
        smallest = min(map(memory_bytes, memory))
        return absent_candidate(name, f"{smallest} bytes of a step hold no such image of each class")
    num_drawn = [groups.num_drawn(number, count) for number, count in enumerate(counts)]
    # An observer that is asked while training takes bytes beside the images.
    num_bytes = sum(map(memory_bytes, memory)) - sum(total for total, _ in budgets)
    num_bytes += sum(count * size for count, (_, size) in zip(num_drawn, budgets, strict=True))

    def items(seed: int, device: torch.device) -> TrainingItems:
        shares, preprocess = [], memory[0].preprocess.to(device)
        for number, count in enumerate(counts):
            drawn = groups.draw(number, count, seed)
            labels = torch.repeat_interleave(torch.tensor([len(members) for members in drawn]))
            group = labelled(number, groups.train.images[torch.cat(drawn)], labels, device)
            shares.append(Share(group, preprocess, len(drawn)))
        return ReplayItems(shares, preprocess)

    key = ("replay of images", FORMAT, counts, classes, groups.train.fingerprint, about)
    number = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    most = sum(count * len(group) for count, group in zip(counts, classes, strict=True))
    fewer = ", or all that there are" if sum(num_drawn) < most else ""
    note = f"{number} uint8 images of each class{fewer} (others for each seed; kept from step to step)"
    return Candidate(
        name, sum(num_drawn), None, num_bytes, key, lambda seed: functools.partial(items, seed), True, note
    )
