"""An observer's logits for regions of what is stored: FKD's labels, as LIC, RDED and SRe2L use them."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from attar.base.errors import InputError
from attar.base.files import content_key
from attar.base.progress import Progress
from attar.methods.labels.checkpoints import KeptEpochs
from attar.methods.labels.region_logits import fitted, fitted_epochs, label_regions
from attar.methods.labels.regions import Labeller, ObserverFacts, RegionLabels, Regions
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RegionSpec
from attar.sets.storages import describe_tensors


def with_regions(
    distilled: DistilledSet,
    observer: Labeller,
    config: RegionLabels,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> DistilledSet:
    """The same set with region labels in the place of those that it has.

    Labels are given to what the file stores, quantised where it is, and to every region of every epoch exactly as
    training will see it.

    Args:
        distilled: a set of fixed items; those of a mosaic are labelled canvas by canvas.
        observer: anything with `logits(images)`; moved to `device` where it is a module. With storage "online" it must
            say its `identity` and `num_bytes`.
        config: which regions, how stored; `epochs` is lowered to what its `label_bytes` allow.
        seed: of the regions; None takes the set's.
        device: where to work.
        batch_size: regions at once.
        progress: told every batch.
        folder: where a stopped run leaves the labels that it has, for the next one; see `forget_kept`.

    Raises:
        InputError: stochastic items, soft labels, a limit below one epoch's labels, an observer of other classes, or
            one that cannot be named.

    Source: LIC section 2.3 and algorithm 1, stage 3; Shen & Xing 2022 (FKD).
    """
    _check(distilled, config)
    if tuple(getattr(observer, "classes", distilled.classes)) != distilled.classes:
        raise InputError("the observer has other classes than the set, or another order; give one trained on its data")
    device, seed = torch.device(device), distilled.manifest.seed if seed is None else seed
    facts = ObserverFacts.of(observer)
    if config.storage == "online" and facts is None:
        raise InputError("storage 'online' needs an observer with identity and num_bytes; take another storage")
    parts = distilled.parameterizations()
    config = fitted(config, [part.num_canvases for part in parts], distilled.num_classes)
    if isinstance(observer, nn.Module):
        observer.to(device)
    preprocess = deepcopy(distilled.preprocess).to(device)
    labelled = []
    for index, part in enumerate(parts):
        epochs, home = None, part.labels.device
        if folder is not None and facts is not None:
            epochs = KeptEpochs(folder / str(index), labels_key(distilled, index, config, facts, seed, device))
        grid, canvases = int(part.spec().get("grid", 1)), part.to(device).canvases
        regions = Regions(canvases, part.num_canvases, distilled.image_shape, config, preprocess, grid, seed, device)
        tensors = label_regions(
            observer, regions, distilled.num_classes, batch_size=batch_size, progress=progress, kept=epochs
        )
        spec = RegionSpec(labels=config, seed=seed, observer=facts, tensors=describe_tensors(tensors))
        labelled.append((spec, tensors))
        part.to(home)
    return distilled.with_regions(labelled)


def labels_key(
    distilled: DistilledSet, shard: int, config: RegionLabels, facts: ObserverFacts, seed: int, device: torch.device
) -> str:
    """Of everything that a shard's labels depend on: of the number of epochs only what a codebook is fitted to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(distilled.payloads()[shard].items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    num_canvases = distilled.parameterizations()[shard].num_canvases
    settings = config.model_copy(update={"epochs": max(1, fitted_epochs(config, num_canvases))}).model_dump(mode="json")
    about = distilled.manifest.shards[shard].facts() | {"regions": None}
    preprocess = distilled.preprocess.identity()
    return content_key("labels", digest.hexdigest(), about, settings, facts.identity, seed, preprocess, device.type)


def _check(distilled: DistilledSet, config: RegionLabels) -> None:
    if distilled.stochastic:
        raise InputError("items that are drawn anew each epoch have no regions to label; ask for fixed items")
    if any(shard.has_soft_labels for shard in distilled.manifest.shards):
        raise InputError("the set has soft labels; distil it with hard labels, and label its regions then")
    if config.tile_probability and all(part.spec().get("grid", 1) == 1 for part in distilled.parameterizations()):
        raise InputError("tile_probability has no effect on items that are no mosaics; set it to 0, or take a mosaic")
