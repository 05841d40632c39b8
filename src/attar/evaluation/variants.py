"""The rows of a card: the set as it is trained on, the set trained on otherwise, and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.evaluation.baselines import Occasion, baseline, stored_label_bytes
from attar.evaluation.candidates import Candidate, MakeItems, absent_candidate, image_items
from attar.evaluation.relabelled import known_observer
from attar.evaluation.rows import DISTILLED, NAMES
from attar.models.observers.observer import Observer
from attar.models.training.items import Inputs, TrainingItems, at_precision
from attar.sets.sizes import online_observers

if TYPE_CHECKING:
    from attar.data.image_set import ImageSet
    from attar.sets.distilled import DistilledSet

VARIANTS = ("hard-labels", "plain", "random-plain")


def candidates(
    distilled: DistilledSet,
    train: ImageSet,
    kinds: Sequence[str],
    occasion: Occasion | None = None,
    learning_rate: float | None = None,
    means: bool = False,
) -> list[Candidate]:
    """The set, then each baseline or variant that there is.

    Args:
        kinds: of `BASELINES`.
        learning_rate: of the set's items; None takes the protocol's.
        means: whether an epoch has the means of items that are distributions too.
    """
    occasion = occasion or Occasion()
    observer, storage = online_observer(distilled), distilled.storage
    maker = partial(_distilled_items, distilled, observer, means)
    num_items = distilled.num_training_items * (1 + means)
    key = (distilled.fingerprint, "means") if means else (distilled.fingerprint,)
    main = Candidate(
        DISTILLED, num_items, storage.paper_bytes, storage.file_bytes, key, lambda seed: maker,
        learning_rate=learning_rate,
    )  # fmt: skip
    others = [
        variant(kind, main, distilled, train, occasion)
        if kind in VARIANTS
        else baseline(kind, distilled, train, occasion)
        for kind in kinds
    ]
    return [candidate.remembering() for candidate in [main, *others] if candidate is not None]


def online_observer(distilled: DistilledSet) -> Observer | None:
    """The observer that labels are asked of during training, from the cache; None where labels are stored.

    Raises:
        InputError: it is not there; what it is, is said.
    """
    return known_observer(distilled) if online_observers(distilled.manifest) else None


def variant(
    kind: str, main: Candidate, distilled: DistilledSet, train: ImageSet, occasion: Occasion
) -> Candidate | None:
    """One of `VARIANTS`; None where it would repeat another row.

    Args:
        kind: "hard-labels" gives every item its class alone; "plain" and "random-plain" leave out the protocol's
            augmentation, of the set and of random images under labels like the set's.
        main: the set as it is trained on.
    """
    labels = distilled.manifest.labels_kind
    if kind == "hard-labels":
        return None if labels == "hard" else _hard_labelled(main, distilled)
    if occasion.training.augmentation is None and not occasion.training.cutmix_probability:
        return absent_candidate(NAMES[kind], "the protocol augments nothing")
    if labels == "regions":
        return absent_candidate(NAMES[kind], "region labels are those of augmented regions, and of nothing else")
    note = "without the protocol's augmentation"
    if kind == "plain":
        return replace(main, name=NAMES[kind], augmented=False, note=note)
    random = baseline("random" if labels == "hard" else "same-labels", distilled, train, occasion)
    assert random is not None
    return replace(random, name=NAMES[kind], augmented=False, note=f"{random.note}, {note}")


def _hard_labelled(main: Candidate, distilled: DistilledSet) -> Candidate:
    values, num_bytes = stored_label_bytes(distilled)
    note = "the set's items with the class of each as its label, without the bytes of other labels"
    maker: MakeItems = partial(_hard_items, distilled, main.num_items // max(1, distilled.num_training_items))
    num_items = main.num_items
    if distilled.manifest.labels_kind == "regions":
        note += "; whole images under the protocol's augmentation, not regions"
        maker, num_items = partial(_hard_regions, distilled), len(distilled)
    return replace(
        main, name=NAMES["hard-labels"], num_items=num_items, paper_bytes=(main.paper_bytes or 0) - values,
        num_bytes=(main.num_bytes or 0) - num_bytes, key=("hard labels", *main.key), maker=lambda seed: maker,
        note=note,
    )  # fmt: skip


class HardLabelled:
    """Items with the class of each, int64 [M], in place of its soft label."""

    def __init__(self, items: TrainingItems, labels: Tensor) -> None:
        self._items, self._labels, self.num_items = items, labels, items.num_items

    def at(self, precision: str) -> HardLabelled:
        """The same in the precision that networks are trained in."""
        return HardLabelled(at_precision(self._items, precision), self._labels)  # type: ignore[arg-type]

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        """The items' inputs, and their classes."""
        return self._items.epoch(epoch, generator)[0], self._labels


def _distilled_items(
    distilled: DistilledSet, observer: Observer | None, means: bool, device: torch.device
) -> TrainingItems:
    return distilled.training_items(device, observer and observer.to(device), means)


def _hard_items(distilled: DistilledSet, repeats: int, device: torch.device) -> TrainingItems:
    items = distilled.training_items(device, means=repeats > 1)
    return HardLabelled(items, distilled.labels.to(device).repeat(repeats))


def _hard_regions(distilled: DistilledSet, device: torch.device) -> TrainingItems:
    return image_items(distilled.images(clamp=True), distilled.labels, distilled.preprocess, device)
