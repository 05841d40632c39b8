"""How an observer's logits of regions are stored: in full, quantised, as the largest ones, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from attar.codecs.codec import Codec
from attar.container import DTYPE_NAMES, DTYPES
from attar.errors import InputError
from attar.labels.keeping import KeptEpochs, Labels
from attar.labels.regions import Canvases, KeptCanvases, Labeller, RegionLabels, Regions
from attar.progress import Progress, Silent
from attar.shapes import Float

Table = dict[str, tuple[str, tuple[int, ...]]]

LARGEST_EPOCH_VALUES = 2**34
"""The most logits of one epoch: M K as they are read, in float32."""
LARGEST_HALF = torch.finfo(torch.float16).max
SMALLEST_HALF = torch.finfo(torch.float16).smallest_normal


def region_table(config: RegionLabels, num_canvases: int, num_classes: int) -> Table:
    """Names, dtypes and shapes of what is stored.

    Raises:
        InputError: `top_k` is not below the number of classes, or there are more logits than a file may stand for.
    """
    if num_canvases * num_classes > LARGEST_EPOCH_VALUES:
        raise InputError(
            f"{num_canvases} canvases of {num_classes} classes have {num_canvases * num_classes} logits an epoch; "
            f"at most {LARGEST_EPOCH_VALUES} are allowed"
        )
    rows = (config.epochs, num_canvases)
    if config.storage == "float16":
        return {"logits": ("F16", (*rows, num_classes))}
    if config.storage == "int8":
        return {"logits": ("I8", (*rows, num_classes)), "scale": ("F16", rows), "offset": ("F16", rows)}
    if config.storage == "online":
        return {}
    if config.top_k >= num_classes:
        raise InputError(
            f"top_k is {config.top_k} and there are {num_classes} classes; keep fewer of them, or take storage 'int8'"
        )
    kept = (*rows, config.top_k)
    return {"classes": (class_dtype(num_classes), kept), "logits": ("F16", kept), "rest": ("F16", rows)}


def class_dtype(num_classes: int) -> str:
    """The smallest that holds every class's index."""
    return next(name for name in ("I8", "I16", "I32") if num_classes - 1 <= torch.iinfo(DTYPES[name]).max)


def epoch_bytes(config: RegionLabels, num_canvases: int, num_classes: int) -> int:
    """Bytes of one epoch's labels as they are stored."""
    table = region_table(config.model_copy(update={"epochs": 1}), num_canvases, num_classes)
    return sum(math.prod(shape) * DTYPES[dtype].itemsize for dtype, shape in table.values())


def fitted(config: RegionLabels, num_canvases: int | Sequence[int], num_classes: int) -> RegionLabels:
    """The labels with `epochs` lowered to what `label_bytes` allows, all shards together, and no limit any more.

    Raises:
        InputError: not even one epoch fits, and what `region_table` refuses.
    """
    shards = [num_canvases] if isinstance(num_canvases, int) else list(num_canvases)
    each = sum(epoch_bytes(config, count, num_classes) for count in shards)
    if config.label_bytes is None:
        return config
    epochs = min(config.epochs, config.label_bytes // each)
    if not epochs:
        raise InputError(
            f"label_bytes is {config.label_bytes} and the labels of one epoch take {each} as {config.storage}; "
            "allow more, or take storage 'int8' or 'top-k'"
        )
    return config.model_copy(update={"epochs": epochs, "label_bytes": None})


def store_logits(logits: Float[Tensor, "canvases classes"], config: RegionLabels) -> dict[str, Tensor]:
    """One epoch's logits as they are stored, without the dimension of epochs.

        float16: rounded.    int8: offset + scale q, q from -127 to 127, to within scale / 2
        top-k: the k largest, float16, their classes, and log sum exp of all others

    Values beyond float16's range are cut to its largest.
    """
    logits = logits.detach().cpu().float().clamp(-LARGEST_HALF, LARGEST_HALF)
    if config.storage == "float16":
        return {"logits": logits.half()}
    if config.storage == "int8":
        return _store_int8(logits)
    if config.storage == "online":
        return {}
    values, classes = logits.topk(config.top_k, dim=1)
    rest = logits.scatter(1, classes, -math.inf).logsumexp(1)
    dtype = DTYPES[class_dtype(logits.shape[1])]
    return {"classes": classes.to(dtype), "logits": values.half(), "rest": rest.clamp_max(LARGEST_HALF).half()}


def read_region_logits(
    tensors: Mapping[str, Tensor], config: RegionLabels, epoch: int, num_classes: int
) -> Float[Tensor, "canvases classes"]:
    """The logits of every canvas's region in an epoch of the training, float32.

    With top-k, the K - k other classes share what is left evenly: log(exp(rest) / (K - k)) each, which is defined at
    every temperature and exact in total at 1.

    Args:
        tensors: as `store_logits` gives them, [E, M, ...].
        config: as stored.
        epoch: any; set `epoch` mod E is read.
        num_classes: K.

    Raises:
        ValueError: storage "online", which has none.
    """
    if config.storage == "online":
        raise ValueError("labels with storage 'online' come from the observer")
    own = {name: tensor[epoch % config.epochs] for name, tensor in tensors.items()}
    if config.storage == "float16":
        return own["logits"].float()
    if config.storage == "int8":
        return own["offset"].float().unsqueeze(1) + own["scale"].float().unsqueeze(1) * own["logits"].float()
    others = own["rest"].float() - math.log(num_classes - config.top_k)
    spread = others.unsqueeze(1).repeat(1, num_classes)
    return spread.scatter(1, own["classes"].long(), own["logits"].float())


def check_region_tensors(
    tensors: Mapping[str, Tensor], config: RegionLabels, num_canvases: int, num_classes: int
) -> None:
    """Raise InputError unless these are exactly what `label_regions` gives for so many canvases, value by value."""
    expected = region_table(config, num_canvases, num_classes)
    found = {name: (DTYPE_NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"tensor {name[:80]!r} of the region labels is {found.get(name)} and must be {expected.get(name)}"
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"tensor {name!r} of the region labels has values that are not finite")
    if "scale" in tensors and not bool((tensors["scale"] > 0).all()):
        raise InputError("tensor 'scale' of the region labels has values that are not positive")
    if "classes" in tensors:
        _check_classes(tensors["classes"], num_classes)


def label_regions(
    observer: Labeller,
    canvases_of: Canvases,
    num_canvases: int,
    config: RegionLabels,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    preprocess: Codec,
    grid: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    progress: Progress | None = None,
    kept: KeptEpochs | None = None,
) -> dict[str, Tensor]:
    """The observer's logits of every region of every epoch, as they are stored: names to [E, M, ...] on the CPU.

    Args:
        observer: on `device`.
        canvases_of: places of canvases to images, as whoever trains will see them.
        num_canvases: M.
        config: which regions and which storage; `label_bytes` has been seen to (`fitted`).
        image_shape: (C, H, W) of a canvas.
        num_classes: K.
        preprocess: images to network inputs, on `device`.
        grid: tiles along each side of a canvas.
        seed: of the regions.
        device: where to work.
        batch_size: regions at once.
        progress: told every batch.
        kept: where epochs are kept while they are made; those that are there already are not made again.

    Raises:
        InputError: logits that are not finite, or of another number of classes.

    Source: Shen & Xing 2022 (FKD); LIC section 2.3.
    """
    progress = progress or Silent()
    table = region_table(config, num_canvases, num_classes)
    stored = {name: torch.empty(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in table.items()}
    if not stored:
        return {}
    canvases = KeptCanvases(canvases_of, num_canvases, image_shape, device)
    regions = Regions(canvases, num_canvases, image_shape, config, preprocess, grid, seed, device)
    found = _fitting(kept.read() if kept is not None else [], stored)
    for epoch, labels in enumerate(found):
        for name, tensor in labels.items():
            stored[name][epoch] = tensor
    progress.start("labelling regions", config.epochs * num_canvases)
    progress.advance(len(found) * num_canvases)
    with nullcontext() if kept is None else kept.whole():
        for epoch in range(len(found), config.epochs):
            logits = regions.logits(observer, epoch, batch_size, progress.advance)
            check_columns(logits, num_classes)
            labels = store_logits(logits, config)
            for name, tensor in labels.items():
                stored[name][epoch] = tensor
            if kept is not None:
                kept.add(labels)
    progress.finish()
    return stored


def _fitting(found: list[Labels], stored: Labels) -> list[Labels]:
    """The kept epochs, none where they are of another shape or type than those to be stored."""
    wanted = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in stored.items()}
    fits = all({name: (t.dtype, t.shape) for name, t in labels.items()} == wanted for labels in found)
    return found[: len(next(iter(stored.values())))] if fits else []


def check_columns(logits: Tensor, num_classes: int) -> None:
    """Raise InputError unless there is one logit for each class."""
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise InputError(
            f"the observer's logits are {tuple(logits.shape)}; give an observer of the set's {num_classes} classes"
        )


def _store_int8(logits: Tensor) -> dict[str, Tensor]:
    low, high = logits.amin(1), logits.amax(1)
    offset = ((low + high) / 2).half()
    reach = torch.maximum((high - offset.float()).abs(), (offset.float() - low).abs())
    scale = (reach / 127).clamp(SMALLEST_HALF, LARGEST_HALF)
    # Rounded up, so that no value lies beyond 127 steps.
    rounded = scale.half()
    rounded = torch.where(rounded.float() < scale, torch.nextafter(rounded, torch.full_like(rounded, 1e4)), rounded)
    steps = (logits - offset.float().unsqueeze(1)) / rounded.float().unsqueeze(1)
    return {"logits": steps.round().clamp(-127, 127).to(torch.int8), "scale": rounded, "offset": offset}


def _check_classes(classes: Tensor, num_classes: int) -> None:
    lowest, highest = int(classes.min()), int(classes.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"classes of the region labels run from {lowest} to {highest}; with {num_classes} classes they must lie "
            f"in 0..{num_classes - 1}"
        )
    for epoch in classes:
        if bool((epoch.sort(1).values.diff(dim=1) == 0).any()):
            raise InputError("the region labels name a class twice in one region")
