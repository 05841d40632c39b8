"""Which real items are chosen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.methods.initialization import initial_indices
from attar.methods.initialization.selection import SELECTIONS, herding, k_centre


def _classes(sizes: list[int]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.arange(sum(sizes)).split(sizes))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=2, max_size=4), st.integers(1, 3), st.sampled_from(sorted(SELECTIONS)))
def test_choices_are_distinct_members_class_major(sizes: list[int], count: int, kind: str) -> None:
    members = _classes(sizes)
    items = torch.randn(sum(sizes), 5, generator=generator(0, "items"))
    chosen = initial_indices(kind, lambda indices: items[indices], members, count, generator(1, "draw"))
    assert len(chosen) == count * len(sizes)
    for index, own in enumerate(members):
        mine = chosen[index * count : (index + 1) * count].tolist()
        assert len(set(mine)) == count
        assert set(mine) <= set(own.tolist())


def test_herding_follows_the_literal_greedy_rule() -> None:
    items = torch.randn(12, 4, generator=generator(3, "items"), dtype=torch.float64)
    chosen: list[int] = []
    for _ in range(5):
        left = [i for i in range(12) if i not in chosen]
        gap = {i: float((items.mean(0) - items[[*chosen, i]].mean(0)).norm()) for i in left}
        chosen.append(min(gap, key=gap.__getitem__))
    assert herding(items, 5, generator(0, "unused")).tolist() == chosen


def test_k_centre_takes_the_farthest_each_time() -> None:
    items = torch.randn(12, 4, generator=generator(4, "items"), dtype=torch.float64)
    chosen = [int((items - items.mean(0)).norm(dim=1).argmin())]
    for _ in range(4):
        nearest = torch.cdist(items, items[chosen]).min(dim=1).values
        chosen.append(int(nearest.argmax()))
    assert k_centre(items, 5, generator(0, "unused")).tolist() == chosen


def test_equal_items_are_still_chosen_once_each() -> None:
    items = torch.ones(4, 3)
    for select in (herding, k_centre):
        assert sorted(select(items, 4, generator(0, "unused")).tolist()) == [0, 1, 2, 3]


def test_a_small_class_is_named() -> None:
    with pytest.raises(InputError, match=r"'cat' has 2 images and 3 are needed"):
        initial_indices("random", lambda i: i, _classes([5, 2]), 3, generator(0, "x"), ["dog", "cat"])


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'herding'"):
        initial_indices("hording", lambda i: i, _classes([5, 5]), 1, generator(0, "x"))
