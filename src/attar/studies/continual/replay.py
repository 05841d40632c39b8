"""A replay memory as networks are trained on it: items of several groups of classes, labelled among all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.models.codecs.codec import Codec
from attar.models.training.items import Inputs, TrainingItems, gives_logits
from attar.sets.streaming import DecodedItems, RegionItems, SampledItems

ABSENT_LOGIT = -1e9  # exp(-1e9 / T) is exactly 0 at any temperature in use, and unlike -inf it is finite


@dataclass(frozen=True)
class Share:
    """The items of one group of classes.

    Args:
        items: labelled among the group's classes.
        preprocess: of their network inputs, on the training device.
        num_classes: of the group, whose columns follow those of the groups before it.
    """

    items: TrainingItems
    preprocess: Codec
    num_classes: int


class ReplayItems:
    """All groups' items together.

    Hard labels are shifted to the group's columns. Probabilities and logits of a group's classes are put into its
    columns; the others get probability 0, or a logit of -1e9, so that

        softmax(lifted / T)_k = softmax(group's logits / T)_(k - first class) in the group's columns, else 0.

    Network inputs are made by one preprocess for all groups: what a group's own has made is decoded and made anew.

    Args:
        shares: at least one; of one kind of labels.
        preprocess: of the network, on the training device.

    Source: concatenated replay, as GDumb (Prabhu et al. 2020) trains on it from scratch.
    Deviation: an observer of one group says nothing of another's classes; that a network also learns to tell groups
        apart follows from the lifted labels' zeros.
    """

    def __init__(self, shares: Sequence[Share], preprocess: Codec) -> None:
        self._preprocess = preprocess
        self._groups = [_translated(share, preprocess) for share in shares]
        *self._first_classes, self._num_classes = itertools.accumulate(
            (share.num_classes for share in shares), initial=0
        )
        self.augmented = self._alike([bool(getattr(share.items, "augmented", False)) for share in shares])
        self.gives_logits = self._alike([gives_logits(share.items) for share in shares])
        self.num_items = sum(share.items.num_items for share in shares)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        """Every group's items of that epoch, group after group."""
        inputs: list[Inputs] = []
        labels = []
        for items, first_class in zip(self._groups, self._first_classes, strict=True):
            group_inputs, group_labels = self._read(items, epoch, generator)
            inputs.append(group_inputs)
            labels.append(lifted(group_labels, first_class, self._num_classes, self.gives_logits))
        tensors = [part for part in inputs if isinstance(part, Tensor)]
        return torch.cat(tensors) if len(tensors) == len(inputs) else JoinedInputs(inputs), torch.cat(labels)

    def _read(self, items: TrainingItems, epoch: int, generator: torch.Generator) -> tuple[Inputs, Tensor]:
        if isinstance(items, RegionItems):
            return items.regions(epoch, self._preprocess), items.logits(epoch)
        return items.epoch(epoch, generator)

    @staticmethod
    def _alike(kinds: Sequence[bool]) -> bool:
        if len(set(kinds)) != 1:
            raise ValueError("the groups' labels are of several kinds")
        return kinds[0]


class JoinedInputs:
    """Inputs of one shape and dtype one after another, read batch by batch."""

    def __init__(self, parts: Sequence[Inputs]) -> None:
        self._parts = list(parts)
        self.shape = torch.Size([sum(map(len, self._parts)), *self._parts[0].shape[1:]])
        self.dtype = self._parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Tensor) -> Tensor:
        first, batch = 0, torch.empty(len(indices), *self.shape[1:], device=indices.device, dtype=self.dtype)
        for part in self._parts:
            here = ((indices >= first) & (indices < first + len(part))).nonzero()[:, 0]
            if len(here):
                batch[here] = part[indices[here] - first].to(batch)
            first += len(part)
        return batch


def lifted(labels: Tensor, first_class: int, num_classes: int, logits: bool = False) -> Tensor:
    """The labels of a group among all classes, its own at `first_class` and after it.

    Args:
        labels: int64 [M], or float [M, classes of the group]: probabilities or, where `logits` says so, logits.
    """
    if not labels.is_floating_point():
        return labels + first_class
    wide = labels.new_full((len(labels), num_classes), ABSENT_LOGIT if logits else 0.0)
    wide[:, first_class : first_class + labels.shape[1]] = labels
    return wide


def _translated(share: Share, preprocess: Codec) -> TrainingItems:
    """The share's items as inputs of `preprocess`; regions, which are made when asked for, are left as they are."""
    items, before = share.items, share.preprocess

    @torch.no_grad()
    def again(inputs: Tensor) -> Tensor:
        return torch.cat([preprocess.encode(before.decode(part)) for part in inputs.split(512)])

    if isinstance(items, RegionItems) or before.identity() == preprocess.identity():
        return items
    if isinstance(items, SampledItems):
        return SampledItems(lambda draw: again(items.epoch(0, draw)[0]), items.labels)
    if not isinstance(items, DecodedItems):
        raise ValueError(f"items of type {type(items).__name__} cannot be translated")
    return DecodedItems(again(items.inputs), items.labels)
