"""Candidates whose items are made once, however many networks are trained on them."""

from __future__ import annotations

from dataclasses import replace

import torch

from attar.evaluation.baselines import Candidate, MakeItems
from attar.training.loop import TrainingItems


def remembering(candidate: Candidate) -> Candidate:
    """The candidate with items and content made once where they are the same for every seed."""
    if candidate.drawn:
        return candidate
    makers: list[MakeItems] = []
    contents: list[str] = []

    def maker_once(seed: int) -> MakeItems:
        if not makers:
            makers.append(_Remembered(candidate.maker(seed)))
        return makers[0]

    def content_once(seed: int) -> str:
        if not contents:
            contents.append(candidate.content(seed))
        return contents[0]

    return replace(candidate, maker=maker_once, content=content_once)


class _Remembered:
    """Makes items once for each device; sent elsewhere, it makes them there.

    Args:
        make: the items.
    """

    def __init__(self, make: MakeItems) -> None:
        self._make = make
        self._items: dict[torch.device, TrainingItems] = {}

    def __call__(self, device: torch.device) -> TrainingItems:
        if device not in self._items:
            self._items[device] = self._make(device)
        return self._items[device]

    def __reduce__(self) -> tuple[type[_Remembered], tuple[MakeItems]]:
        return _Remembered, (self._make,)
