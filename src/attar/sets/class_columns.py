"""A set's labels among other classes, or among the same ones in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Int64
from attar.methods.labels.regions import RegionLabels
from attar.sets.composing import Contents, describe_payload
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import SOFT_LABELS, ShardSpec
from attar.sets.storages import at_rest

# A finite stand-in for the -inf of a class that a label says nothing of: files hold finite values only.
ABSENT_LOGITS = {torch.float16: -65504.0, torch.float32: -1e9}

# A logit so far below the largest has no probability, because exp(-104) is 0 in float32.
LEAST_DISTANCE = 128.0


def columns_among(own: Sequence[str], every: Sequence[str]) -> Int64[Tensor, " own"]:
    """The place of each of a set's classes among all of them."""
    place = {name: index for index, name in enumerate(every)}
    return torch.tensor([place[name] for name in own])


def shards_in_columns(
    distilled: DistilledSet, columns: Int64[Tensor, " own"], num_classes: int
) -> tuple[list[ShardSpec], Contents]:
    """A set's shards with labels among other classes, and their tensors.

    Args:
        distilled: the set.
        columns: for each of its classes the place among the others.
        num_classes: K, how many there are in the end.

    Raises:
        InputError: soft labels that the other classes cannot be kept out of; region labels among more classes, or those
            that an observer is asked for in another order.
    """
    held, specs = distilled.contents, distilled.manifest.shards
    payloads = [_payload(payload, columns, num_classes) for payload in held.payloads]
    regions = [
        {} if shard.regions is None else _regions(tensors, shard.regions.labels, columns, num_classes)
        for shard, tensors in zip(specs, held.regions, strict=True)
    ]
    shards = [
        describe_payload(shard.parameterization, shard.codec, payload, num_classes, shard.regions)
        for shard, payload in zip(specs, payloads, strict=True)
    ]
    return shards, Contents(held.codecs, payloads, regions)


def in_order_of(distilled: DistilledSet, classes: Sequence[str]) -> DistilledSet:
    """The same set with its classes in the order of `classes`; itself where that names other ones.

    Raises:
        InputError: labels that are asked of an observer, which has an order of its own.
    """
    if tuple(classes) == distilled.classes or set(classes) != set(distilled.classes):
        return distilled
    shards, contents = shards_in_columns(distilled, columns_among(distilled.classes, classes), len(classes))
    return distilled.with_shards(shards, contents, classes)


def _payload(payload: Mapping[str, Tensor], columns: Tensor, num_classes: int) -> dict[str, Tensor]:
    labelled = {**payload, "labels": columns[payload["labels"].long()].to(payload["labels"].dtype)}
    if SOFT_LABELS in payload:
        labelled[SOFT_LABELS] = _wide(payload[SOFT_LABELS], columns, num_classes)
    return labelled


def _wide(logits: Tensor, columns: Tensor, num_classes: int) -> Tensor:
    """Logits [M, k] as [M, K], of which softmax gives the other classes exactly 0 in float32."""
    absent = ABSENT_LOGITS[logits.dtype]
    if num_classes > len(columns) and bool((logits.float().amax(1) < absent + LEAST_DISTANCE).any()):
        raise InputError(f"soft labels whose largest logit is below {absent + LEAST_DISTANCE:g}; distil the set again")
    wide = torch.full((len(logits), num_classes), absent, dtype=logits.dtype)
    wide[:, columns] = logits
    return wide


def _regions(
    tensors: Mapping[str, Tensor], labels: RegionLabels, columns: Tensor, num_classes: int
) -> dict[str, Tensor]:
    """Region labels with their classes in another order."""
    if len(columns) < num_classes:
        raise InputError("an observer's labels of regions say nothing of classes that it does not know")
    if torch.equal(columns, torch.arange(num_classes)):
        return dict(tensors)
    if labels.storage == "online":
        raise InputError(
            "labels that are asked of an observer come in its order of the classes; keep that order, "
            "or label the set with another storage"
        )
    if labels.storage == "top-k":
        classes = tensors["classes"]
        return {**tensors, "classes": columns[classes.long()].to(classes.dtype)}
    order = columns.argsort()
    if labels.storage == "codebook":
        return {**tensors, **{name: at_rest(tensors[name][order]) for name in ("mean", "directions")}}
    return {**tensors, "logits": at_rest(tensors["logits"][..., order])}
