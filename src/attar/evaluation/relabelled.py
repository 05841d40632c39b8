"""Other items under a set's region labels: what the labels alone are worth, and what was gained before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.base.shapes import Float, Int64
from attar.evaluation.candidates import AbsentError
from attar.methods.parameterizations.parameterization import Parameterization
from attar.models.codecs.codec import Codec
from attar.models.observers.cache import cached_observer
from attar.models.observers.observer import Observer
from attar.sets.class_columns import columns_among
from attar.sets.manifest import RegionSpec
from attar.sets.streaming import RegionItems, labelled_regions

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet


def regions_of(distilled: DistilledSet) -> RegionSpec | None:
    """The set's region labels, those of its first shard; None where it has none."""
    return distilled.manifest.shards[0].regions


def known_observer(distilled: DistilledSet) -> Observer:
    """The observer of the set's region labels from the cache. Raises AbsentError where it is not there."""
    regions = regions_of(distilled)
    assert regions is not None
    if regions.observer is None:
        raise AbsentError("the set does not say whose its labels are, so that other images cannot be labelled alike")
    observer = cached_observer(regions.observer.identity)
    if observer is None:
        raise AbsentError(
            f"the observer of the set's labels, {regions.observer.network} {regions.observer.identity[:12]}..., is not "
            "in the cache; attar observer makes it from the same data and settings"
        )
    return observer


class InOrder:
    """An observer whose logits come in another order: `columns` has each class's place in the observer's."""

    def __init__(self, observer: Observer, columns: Int64[Tensor, " classes"]) -> None:
        self._observer, self._columns = observer, columns

    def logits(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items classes"]:
        """The observer's, class by class in the new order."""
        return self._observer.logits(images)[:, self._columns.to(images.device)]


def labelled_alike(
    items: Parameterization,
    regions: RegionSpec,
    preprocess: Codec,
    observer: Observer,
    classes: Sequence[str],
    device: torch.device,
) -> RegionItems:
    """Items under labels of the same kind, asked of the observer while networks are trained, in the order of `classes`.

    Regions are cropped as the set's are, but for tiles where the items have none. Labels are the observer's own; a set
    that stores them rounded, or in part, has them a little worse.
    """
    has_tiles = int(items.spec().get("grid", 1)) > 1
    tile_probability = regions.labels.tile_probability if has_tiles else 0.0
    changes = {"storage": "online", "tile_probability": tile_probability, "label_bytes": None}
    config = regions.labels.model_copy(update=changes)
    online = regions.model_copy(update={"labels": config, "tensors": {}})
    moved = preprocess.to(device)
    parts = labelled_regions([items.to(device)], [online], [{}], moved, device)
    labeller: Observer | InOrder = observer.to(device)
    if set(classes) == set(observer.classes) and tuple(classes) != observer.classes:
        labeller = InOrder(observer.to(device), columns_among(classes, observer.classes))
    return RegionItems(parts, moved, len(observer.classes), device, labeller)
