"""Counter: its numbers are those of the equation, whatever is drawn with them."""

from __future__ import annotations

import hashlib

import torch

from attar.base.randomness import Counter

MASK = (1 << 64) - 1


def literal(seed: int, purpose: str, call: int, place: int) -> float:
    key = int.from_bytes(hashlib.sha256(f"{seed}\x1f{purpose}".encode()).digest()[:8], "big")
    mixed = (key + ((call << 32) + place + 1) * 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & MASK
    return ((mixed ^ mixed >> 31) >> 11) / (1 << 53)


def test_counter_is_splitmix64_in_whole_numbers() -> None:
    counter = Counter(7, "boxes")
    drawn = [counter.uniform(3), counter.uniform(4)]
    expected = [[literal(7, "boxes", call, place) for place in range(count)] for call, count in ((0, 3), (1, 4))]
    assert [values.tolist() for values in drawn] == expected


def test_an_element_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = Counter(0, "a"), Counter(0, "a")
    for _ in range(3):
        assert few.uniform(2).equal(many.uniform(50)[:2])


def test_seeds_purposes_and_calls_are_unrelated_and_uniform() -> None:
    counter, other = Counter(0, "a"), Counter(0, "b")
    columns = [counter.uniform(20_000), counter.uniform(20_000), other.uniform(20_000), Counter(1, "a").uniform(20_000)]
    values = torch.stack([*columns, columns[0].roll(1)])
    assert (values.mean(1) - 0.5).abs().max() < 0.01
    assert (torch.corrcoef(values) - torch.eye(5)).abs().max() < 0.03
    assert float(values.min()) >= 0 and float(values.max()) < 1
