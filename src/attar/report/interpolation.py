"""What lies between items: images of codes on the way from one item's code to another's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.shapes import Float
from attar.methods.parameterizations.parameterization import Parameterization

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet

Interpolation = Literal["linear", "spherical"]
INTERPOLATIONS = ("linear", "spherical")
FEWEST_STEPS, MOST_STEPS = 2, 100


def interpolate(
    first: Float[Tensor, ...], last: Float[Tensor, ...], steps: int, kind: Interpolation = "linear"
) -> Float[Tensor, "steps ..."]:
    """Return codes from `first` to `last`, both included, at t = 0, 1 / (steps - 1), ..., 1.

        linear       (1 - t) a + t b
        spherical    (sin((1 - t) w) a + sin(t w) b) / sin w,   w the angle between a and b; for w = 0 linear

    Args:
        first, last: a and b, of one shape.
        steps: how many, at least 2.
        kind: which of the two.

    Raises:
        InputError: codes of opposite directions, or one that is zero, between which there is no one arc.

    Source: D3 section 3.2, which interpolates linearly; Shoemake 1985 (slerp).
    """
    shape = (steps, *(1 for _ in first.shape))
    share = torch.linspace(0, 1, steps, dtype=torch.float64).reshape(shape)
    start, end = first.double(), last.double()
    if kind == "linear":
        return ((1 - share) * start + share * end).to(first.dtype)
    lengths = float(start.norm() * end.norm())
    # Of an angle's two formulas this one is exact for small ones and for those near half a turn.
    one, other = start * end.norm(), end * start.norm()
    angle = 2 * torch.atan2((one - other).norm(), (one + other).norm())
    sine = float(angle.sin())
    if not lengths or (sine < 1e-6 and float(angle) > 1):
        raise InputError("between opposite codes, or from a code of zeros, there is no one arc; take linear")
    if sine < 1e-6:
        return ((1 - share) * start + share * end).to(first.dtype)
    return ((((1 - share) * angle).sin() * start + (share * angle).sin() * end) / sine).to(first.dtype)


def images_between(
    distilled: DistilledSet, between: Sequence[str] | str, steps: int, kind: Interpolation
) -> tuple[list[int], Float[Tensor, "rows steps C H W"]]:
    """Decode codes between two items, in one row, or between four, in a square. Distributions stand for their means.

    Args:
        distilled: the set.
        between: two or four items, or a text of them with commas: a class's name, and after a colon the item's place in
            its class, from 0, which is the place without one. Four are the corners, upper ones first.
        steps: images along a side, 2 to 100.
        kind: see `interpolate`. In a square the left and right sides come first, and then the rows between them.

    Returns:
        The corners' items, and the images.

    Raises:
        InputError: a name or a number that means nothing, or items without a code between which anything lies.

    Source: D3 section 3.2 and Figure 4.
    """
    if kind not in INTERPOLATIONS:
        raise unknown("interpolation", str(kind), INTERPOLATIONS)
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        raise InputError(f"{steps} steps were asked for; give {FEWEST_STEPS} to {MOST_STEPS}, both ends among them")
    items = corners(distilled, between)
    part, places = _part_of(distilled, items)
    codes = part.latents(torch.tensor(places, device=part.labels.device)).cpu()
    pairs = combinations(range(len(items)), 2)
    if any(torch.equal(codes[one], codes[other]) for one, other in pairs):
        raise InputError("two of the items share one code, and nothing lies between them; name others")
    if len(items) == 2:
        rows = interpolate(codes[0], codes[1], steps, kind)[None]
    else:
        left, right = (interpolate(codes[place], codes[place + 2], steps, kind) for place in (0, 1))
        rows = torch.stack([interpolate(one, other, steps, kind) for one, other in zip(left, right, strict=True)])
    images = [part.decode(row.to(part.labels.device)).cpu() for row in rows]
    return items, torch.stack(images)


def corners(distilled: DistilledSet, between: Sequence[str] | str) -> list[int]:
    """Find the items that are named; see `images_between`. Commas and colons may belong to classes' names."""
    if isinstance(between, str):
        pieces = between.split(",")
        readings = [names for names in _groupings(pieces) if all(_item(distilled, name) is not None for name in names)]
        if len(readings) > 1:
            raise InputError(f"{between!r} can be read in {len(readings)} ways; give the items as a list, in Python")
        between = readings[0] if readings else [piece.strip() for piece in pieces]
    names = [name.strip() for name in between]
    if len(names) not in (2, 4):
        raise InputError(f"{len(names)} items are named; name two, or four for the corners of a square")
    return [_known(distilled, name) for name in names]


def item_name(distilled: DistilledSet, item: int) -> str:
    """Return the item's class, and after a colon its place in it where there are more."""
    label = int(distilled.labels[item])
    name = distilled.classes[label]
    return f"{name}:{_place(distilled, item)}" if distilled.num_per_class[label] > 1 else name


def _place(distilled: DistilledSet, item: int) -> int:
    return int((distilled.labels[:item] == distilled.labels[item]).sum())


def _known(distilled: DistilledSet, name: str) -> int:
    item = _item(distilled, name)
    if item is not None:
        return item
    label, _, place = name.rpartition(":")
    if label.strip() in distilled.classes and place.strip().isdecimal():
        count = distilled.num_per_class[distilled.classes.index(label.strip())]
        raise InputError(f"{name!r} was asked for, and class {label.strip()!r} has {count} items; count them from 0")
    raise unknown("class", name, distilled.classes)


def _item(distilled: DistilledSet, name: str) -> int | None:
    """Return the item of this name, or None."""
    name = name.strip()
    label, place = (name, "0") if name in distilled.classes else (part.strip() for part in name.rpartition(":")[::2])
    if label not in distilled.classes or not place.isdecimal():
        return None
    members = (distilled.labels == distilled.classes.index(label)).nonzero()[:, 0]
    return int(members[int(place)]) if len(place) < 10 and int(place) < len(members) else None


def _groupings(pieces: list[str]) -> list[list[str]]:
    """Return all ways to read the pieces as two or four names, where commas may be part of names."""
    if len(pieces) > 12:
        return []
    cuts = [cut for count in (2, 4) for cut in combinations(range(1, len(pieces)), count - 1)]
    return [[",".join(pieces[start:end]) for start, end in pairwise([0, *cut, len(pieces)])] for cut in cuts]


def _part_of(distilled: DistilledSet, items: Sequence[int]) -> tuple[Parameterization, list[int]]:
    """Return the shard that has all of the items, and their places in it."""
    first = 0
    for part in distilled.parameterizations():
        inside = [first <= item < first + len(part) for item in items]
        if all(inside):
            if not part.codec.latent and part.kind in ("codes", "mosaic"):
                raise InputError(
                    "items are pixels: between two of them there is a cross-fade and no latent space; take a set of "
                    "priors, or of codes"
                )
            return part, [item - first for item in items]
        if any(inside):
            raise InputError("the items have decoders of their own, and no code of one means anything to the other")
        first += len(part)
    raise AssertionError("every item has a shard")
