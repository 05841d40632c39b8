"""What a manifest says of a run and its items, and the tensors that belong to it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.version import __version__
from attar.data.image_set import ImageSet
from attar.sets.manifest import (
    REAL_INITIALIZATIONS,
    CodecSpec,
    DataProvenance,
    InitialProvenance,
    Manifest,
    RegionSpec,
    ShardSpec,
    Table,
    Tensors,
    checked_manifest,
)
from attar.sets.manifest_text import implied_facts
from attar.sets.storages import PLAIN, STORAGES, describe_tensors, storages_of


@dataclass(frozen=True)
class Contents:
    """The tensors of a set as they are used.

    Args:
        codecs: by identity, what is stored of each codec.
        payloads: what is stored of each shard's items.
        regions: what is stored of each shard's region labels; empty where there are none, or the observer is asked.
    """

    codecs: Mapping[str, Tensors]
    payloads: Sequence[Tensors]
    regions: Sequence[Tensors]

    def packed(self, manifest: Manifest, plain: bool = False) -> dict[str, Tensor]:
        """The file's tensors by their full names; `plain` packs none, so that equal items give equal tensors."""
        tensors = {
            f"codecs.{number}.{name}": tensor
            for number, identity in enumerate(manifest.codecs())
            for name, tensor in self.codecs[identity].items()
        }
        for number, (shard, payload, regions) in enumerate(
            zip(manifest.shards, self.payloads, self.regions, strict=True)
        ):
            for name, tensor in payload.items():
                storage = STORAGES[PLAIN if plain else shard.storages.get(name, PLAIN)]
                parts = storage.pack(tensor, manifest.num_classes) or {}
                tensors |= {f"shards.{number}.{name}{suffix}": part for suffix, part in parts.items()}
            tensors |= {f"shards.{number}.regions.{name}": tensor for name, tensor in regions.items()}
        return tensors

    @classmethod
    def unpacked(cls, manifest: Manifest, tensors: Tensors) -> Contents:
        """What `packed` was given. The tensors must be those that the manifest lists."""
        codecs = {
            codec.identity: {name: tensors[f"codecs.{number}.{name}"] for name in codec.tensors}
            for number, codec in enumerate(manifest.codecs().values())
        }
        payloads, regions = [], []
        for number, shard in enumerate(manifest.shards):
            prefix, labels = f"shards.{number}.", shard.regions.tensors if shard.regions else {}
            payloads.append(_unpacked(shard, tensors, prefix, manifest.num_classes))
            regions.append({name: tensors[f"{prefix}regions.{name}"] for name in labels})
        return cls(codecs, payloads, regions)


def _unpacked(shard: ShardSpec, tensors: Tensors, prefix: str, num_classes: int) -> dict[str, Tensor]:
    payload = {}
    for name, spec in shard.tensors.items():
        storage = STORAGES[shard.storages.get(name, PLAIN)]
        parts = {suffix: tensors[prefix + name + suffix] for suffix in storage.table(spec, num_classes)}
        payload[name] = storage.unpack(parts, spec, num_classes)
    return payload


def compose_manifest(
    preprocess: CodecSpec,
    shards: Sequence[ShardSpec],
    classes: Sequence[str],
    recipe: Mapping[str, Any],
    data: tuple[str, ImageSet] | DataProvenance,
    initial: tuple[str, Sequence[int]] | InitialProvenance,
    seed: int,
    device: str,
    network: Mapping[str, Any] | None,
    scores: Sequence[Mapping[str, Any]],
    learned: Mapping[str, float] | None,
) -> Manifest:
    """The manifest of these shards, not sealed yet; the arguments are those of `DistilledSet.build`.

    Raises:
        InputError: class names or learned numbers that a file cannot hold, or facts that are not JSON.
    """
    learned = learned or {}
    for name, value in learned.items():
        if not math.isfinite(value):
            raise InputError(f"the learned number {name!r} is {value}; lower the rate at which it is learned")
    if not isinstance(data, DataProvenance):
        name, images = data
        data = DataProvenance(name=without_folders(name), fingerprint=images.fingerprint, num_items=len(images))
    if not isinstance(initial, InitialProvenance):
        kind, indices = initial
        real = kind in REAL_INITIALIZATIONS
        initial = InitialProvenance(kind=kind, indices=tuple(map(int, indices)), real_pixels_inside=real)
    implied = implied_facts(recipe, initial.real_pixels_inside)
    return checked_manifest(
        {
            **implied,
            "classes": list(classes),
            "image_shape": preprocess.spec["image_shape"],
            "preprocess": preprocess,
            "shards": shards,
            "recipe": without_folders(recipe),
            "learned": {name: float(value) for name, value in learned.items()},
            "data": data,
            "seed": seed,
            "device": device,
            "versions": {"attar": __version__, "python": platform.python_version(), "torch": str(torch.__version__)},
            "initialization": initial,
            "network": implied["network"] if network is None else network,
            "scores": scores,
        },
        "the distilled set",
    )


def describe_shard(
    parameterization: dict[str, Any],
    codec: CodecSpec,
    tensors: Table,
    regions: RegionSpec | None = None,
    storages: Mapping[str, str] | None = None,
) -> ShardSpec:
    """What a manifest says of items with this payload, and with these region labels where there are any."""
    num_items = tensors["labels"].shape[0]
    return ShardSpec(
        parameterization=parameterization,
        codec=codec,
        num_items=num_items,
        tensors=tensors,
        storages=dict(storages or {}),
        regions=regions,
    )


def describe_payload(
    parameterization: dict[str, Any],
    codec: CodecSpec,
    payload: Tensors,
    num_classes: int,
    regions: RegionSpec | None = None,
) -> ShardSpec:
    """As `describe_shard`, of items that are there: what follows from their number is not stored."""
    tensors, storages = describe_tensors(payload), storages_of(payload, num_classes)
    return describe_shard(parameterization, codec, tensors, regions, storages)


def without_folders(value: Any) -> Any:
    """`value` with every absolute path in it shortened to its last part: a file never tells where it was made."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str | Path):
        text = str(value)
        if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~"):
            return (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).name
        return text
    return value
