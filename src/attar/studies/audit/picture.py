"""Distilled images beside the real ones that are nearest to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import refuse_existing
from attar.data.image_set import ImageSet, Splits
from attar.report.contact_sheet import show_beside
from attar.report.interpolation import item_name
from attar.sets.distilled import DistilledSet
from attar.studies.audit.card import Part
from attar.studies.audit.neighbours import Nearest

MOST_ROWS = 60


def refuse_picture(path: Path, overwrite: bool) -> None:
    """Raise InputError for a picture that exists, or is no .png, before any work."""
    refuse_existing(path, overwrite)
    if path.suffix.lower() != ".png":
        raise InputError(f"the picture is a PNG and {path.name!r} is not; name it e.g. {path.stem}.png")


def draw_neighbours(
    distilled: DistilledSet, images: Tensor, splits: Splits, nearest: Mapping[Part, Nearest], out: Path, overwrite: bool
) -> Path:
    """A row for a distilled image: itself, the nearest training image and the nearest held-out one, in pixels.

    There are at most `MOST_ROWS`, as many of each class, or one of each of the first classes. The two distances, in
    8-bit levels, stand with its name. Mirrored neighbours are drawn as they are compared.
    """
    per_class = max(1, MOST_ROWS // distilled.num_classes)
    members = [(distilled.labels == label).nonzero()[:per_class, 0] for label in range(distilled.num_classes)]
    items = torch.cat(members)[:MOST_ROWS]
    names = [
        f"{item_name(distilled, item)} {nearest['train'].distances[item]:.1f} {nearest['test'].distances[item]:.1f}"
        for item in items.tolist()
    ]
    train, test = _neighbours(splits.train, nearest["train"], items), _neighbours(splits.test, nearest["test"], items)
    part = "" if len(items) == len(distilled) else f", {len(items)} of {len(distilled)} items"
    title = f"{distilled.name}{part}: distances in 8-bit levels to the nearest training and held-out image"
    return show_beside(
        out, names, [images[items], train, test], ("distilled", "training", "held-out"), title, overwrite=overwrite
    )


def _neighbours(real: ImageSet, near: Nearest, items: Tensor) -> Tensor:
    pixels = real.images[near.indices[items]]
    return torch.where(near.mirrored[items, None, None, None], pixels.flip(3), pixels)
