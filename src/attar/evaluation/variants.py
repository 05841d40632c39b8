"""The set's own items trained on otherwise: with hard labels, or without augmentation, and random images so too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.base.files import content_key
from attar.evaluation.baselines import (
    Candidate,
    MakeItems,
    Occasion,
    absent_candidate,
    baseline,
    image_items,
    stored_label_bytes,
)
from attar.evaluation.rows import NAMES
from attar.models.training.items import Inputs, TrainingItems, at_precision

if TYPE_CHECKING:
    from attar.data.image_set import ImageSet
    from attar.models.training.settings import TrainingConfig
    from attar.sets.distilled import DistilledSet

VARIANTS = ("hard-labels", "plain", "random-plain")


class HardLabelled:
    """Items with the class of each in place of its soft label.

    Args:
        items: with soft labels.
        labels: int64 [M], in the items' order.
    """

    def __init__(self, items: TrainingItems, labels: Tensor) -> None:
        self._items, self._labels, self.num_items = items, labels, items.num_items

    def at(self, precision: str) -> HardLabelled:
        """The same in the precision that networks are trained in."""
        return HardLabelled(at_precision(self._items, precision), self._labels)  # type: ignore[arg-type]

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        """The items' inputs, and their classes."""
        return self._items.epoch(epoch, generator)[0], self._labels


def variant(
    kind: str,
    main: Candidate,
    distilled: DistilledSet,
    train: ImageSet,
    training: TrainingConfig,
    occasion: Occasion | None = None,
) -> Candidate | None:
    """One of `VARIANTS`; None where it would repeat another row.

    Args:
        kind: "hard-labels" gives every item its class alone; "plain" and "random-plain" leave out the protocol's
            augmentation, of the set and of random images under labels like the set's.
        main: the set as it is trained on.
        distilled: the set.
        train: real training images.
        training: the protocol's.
        occasion: see `baseline`.
    """
    if kind == "hard-labels":
        return None if distilled.manifest.labels_kind == "hard" else _hard_labelled(main, distilled)
    if training.augmentation is None and not training.cutmix_probability:
        return absent_candidate(NAMES[kind], "the protocol augments nothing")
    if distilled.manifest.labels_kind == "regions":
        return absent_candidate(NAMES[kind], "region labels are those of augmented regions, and of nothing else")
    if kind == "plain":
        return replace(main, name=NAMES[kind], augmented=False, note="without the protocol's augmentation")
    usual = baseline(
        "random" if distilled.manifest.labels_kind == "hard" else "same-labels", distilled, train, occasion
    )
    assert usual is not None
    note = f"{usual.note}, without the protocol's augmentation"
    return replace(usual, name=NAMES[kind], augmented=False, note=note)


def _hard_labelled(main: Candidate, distilled: DistilledSet) -> Candidate:
    regions = distilled.manifest.labels_kind == "regions"
    values, num_bytes = stored_label_bytes(distilled)
    paper_bytes = (main.paper_bytes or 0) - values
    means = main.num_items // max(1, distilled.num_training_items)
    num_items = len(distilled) if regions else main.num_items
    make = partial(_hard_regions, distilled) if regions else partial(_hard_items, distilled, means)

    def maker(seed: int) -> MakeItems:
        return make

    def content(seed: int) -> str:
        return content_key("hard labels", main.content(seed))

    told = "the set's items with the class of each as its label, without the bytes of other labels"
    if regions:
        told += "; whole images under the protocol's augmentation, not regions"
    return replace(
        main, name=NAMES["hard-labels"], num_items=num_items, paper_bytes=paper_bytes,
        num_bytes=(main.num_bytes or 0) - num_bytes, content=content, maker=maker, note=told,
    )  # fmt: skip


def _hard_items(distilled: DistilledSet, means: int, device: torch.device) -> TrainingItems:
    labels: Sequence[Tensor] = [distilled.labels.to(device)] * means
    return HardLabelled(distilled.training_items(device, means=means > 1), torch.cat(list(labels)))


def _hard_regions(distilled: DistilledSet, device: torch.device) -> TrainingItems:
    return image_items(distilled.images(clamp=True), distilled.labels, distilled.preprocess, device)
