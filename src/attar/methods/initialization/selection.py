"""Random, herding and k-centre: which real items of each class are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.shapes import Float, Int64

Initialization = Literal["random", "herding", "k-centre"]

Select = Callable[[Float[Tensor, "members values"], int, torch.Generator], Int64[Tensor, " chosen"]]


def random_items(
    items: Float[Tensor, "members values"], count: int, generator: torch.Generator
) -> Int64[Tensor, " chosen"]:
    """`count` different members, each equally likely."""
    return torch.randperm(len(items), generator=generator)[:count]


def herding(items: Float[Tensor, "members values"], count: int, generator: torch.Generator) -> Int64[Tensor, " chosen"]:
    """Members whose running mean stays nearest to the class mean, greedily and without repetition.

        next = argmin_i || mean(items) - (sum of chosen + item_i) / (number chosen + 1) ||

    Source: Welling 2009 (herding), in the greedy form of iCaRL (Rebuffi et al. 2017, Algorithm 4).
    """
    target = items.mean(0)
    squares = items.square().sum(1)
    total = torch.zeros_like(target)
    chosen: list[int] = []
    for number in range(1, count + 1):
        direction = total - number * target
        distance = squares + 2 * (items @ direction)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + items[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def k_centre(
    items: Float[Tensor, "members values"], count: int, generator: torch.Generator
) -> Int64[Tensor, " chosen"]:
    """Members that cover the class: the one nearest to its mean, then each time the one farthest from all chosen.

    Source: greedy k-centre of Sener & Savarese 2018, Algorithm 1.
    Deviation: starts at the member nearest to the mean instead of at a given labelled pool.
    """
    chosen = [int((items - items.mean(0)).square().sum(1).argmin())]
    distance = (items - items[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (items - items[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, dtype=torch.int64)


SELECTIONS: dict[str, Select] = {"random": random_items, "herding": herding, "k-centre": k_centre}


def initial_indices(
    kind: str,
    items_of: Callable[[Int64[Tensor, " _"]], Tensor],
    class_indices: Sequence[Int64[Tensor, " _"]],
    num_per_class: int,
    generator: torch.Generator,
    classes: Sequence[str] | None = None,
) -> Int64[Tensor, " chosen"]:
    """Indices of the chosen items, class-major: `num_per_class` of each class.

    Args:
        kind: "random", "herding" or "k-centre".
        items_of: items of given indices, [B, ...] float; asked class by class, and not at all for "random".
        class_indices: for each class the indices of its members (`ImageSet.class_indices`).
        num_per_class: how many of each class.
        generator: on the CPU; used by "random" only.
        classes: names, for the error message.

    Raises:
        InputError: an unknown kind, or a class with fewer members than asked for.
    """
    if kind not in SELECTIONS:
        raise unknown("initialization", kind, SELECTIONS)
    chosen = []
    for index, members in enumerate(class_indices):
        if len(members) < num_per_class:
            raise too_few(classes[index] if classes else str(index), len(members), num_per_class)
        items = torch.empty(len(members), 0) if kind == "random" else items_of(members).flatten(1).float().cpu()
        chosen.append(members[SELECTIONS[kind](items, num_per_class, generator)])
    return torch.cat(chosen)


def too_few(name: str, num_images: int, needed: int) -> InputError:
    """An InputError for a class that is too small."""
    return InputError(
        f"class {name!r} has {num_images} images and {needed} are needed to start from; "
        "lower the budget or give that class more images"
    )
