"""How an observer's logits of regions are stored: in full, quantised, as the largest ones, as codes, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from attar.base.container import DTYPE_NAMES, DTYPES
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.methods.labels.checkpoints import KeptEpochs, Labels
from attar.methods.labels.codebook import ENTRIES, MOST_FITTED, Codebook, fit_codebook
from attar.methods.labels.regions import Canvases, KeptCanvases, Labeller, RegionLabels, Regions
from attar.models.codecs.codec import Codec

Table = dict[str, tuple[str, tuple[int, ...]]]

LARGEST_EPOCH_VALUES = 2**34
"""The most logits of one epoch: M K as they are read, in float32."""
CODE_OFFSET = 128
"""Codes run from 0 to 255, and int8 from -128 to 127."""
LARGEST_HALF = torch.finfo(torch.float16).max
SMALLEST_HALF = torch.finfo(torch.float16).smallest_normal


def region_table(config: RegionLabels, num_canvases: int, num_classes: int) -> Table:
    """Names, dtypes and shapes of what is stored: [E, M, ...] of all epochs, then what they share.

    Raises:
        InputError: `top_k` is not below the number of classes, `code_bytes` is above it, or there are more logits than
            a file may stand for.
    """
    if num_canvases * num_classes > LARGEST_EPOCH_VALUES:
        raise InputError(
            f"{num_canvases} canvases of {num_classes} classes have {num_canvases * num_classes} logits an epoch; "
            f"at most {LARGEST_EPOCH_VALUES} are allowed"
        )
    table = _epoch_table(config, num_canvases, num_classes)
    every = {name: (dtype, (config.epochs, *shape)) for name, (dtype, shape) in table.items()}
    return every | codebook_table(config, num_classes)


def codebook_table(config: RegionLabels, num_classes: int) -> Table:
    """What labels with storage "codebook" share; {} with any other.

    Raises:
        InputError: more bytes of a label than classes.
    """
    if config.storage != "codebook":
        return {}
    groups = config.code_bytes
    if groups > num_classes:
        raise InputError(
            f"code_bytes is {groups} and there are {num_classes} classes; give at most {num_classes}, "
            "or take storage 'int8'"
        )
    width = -(-num_classes // groups)
    return {
        "mean": ("F16", (num_classes,)),
        "directions": ("F16", (num_classes, groups * width)),
        "entries": ("F16", (groups, ENTRIES, width)),
    }


def class_dtype(num_classes: int) -> str:
    """The smallest that holds every class's index."""
    return next(name for name in ("I8", "I16", "I32") if num_classes - 1 <= torch.iinfo(DTYPES[name]).max)


def epoch_bytes(config: RegionLabels, num_canvases: int, num_classes: int) -> int:
    """Bytes of one epoch's labels as they are stored, without what all epochs share."""
    return _bytes(_epoch_table(config, num_canvases, num_classes))


def fitted(config: RegionLabels, num_canvases: int | Sequence[int], num_classes: int) -> RegionLabels:
    """The labels with `epochs` lowered to what `label_bytes` allows, all shards together, and no limit any more.

    Raises:
        InputError: not even one epoch fits, and what `region_table` refuses.
    """
    shards = [num_canvases] if isinstance(num_canvases, int) else list(num_canvases)
    each = sum(epoch_bytes(config, count, num_classes) for count in shards)
    if config.label_bytes is None:
        return config
    shared = len(shards) * _bytes(codebook_table(config, num_classes))
    epochs = min(config.epochs, max(0, config.label_bytes - shared) // each)
    if not epochs:
        raise InputError(
            f"label_bytes is {config.label_bytes} and the labels of one epoch take {each + shared} as "
            f"{config.storage}; allow more, or take storage 'int8', 'top-k' or 'codebook'"
        )
    return config.model_copy(update={"epochs": epochs, "label_bytes": None})


def store_logits(
    logits: Float[Tensor, "canvases classes"], config: RegionLabels, codebook: Codebook | None = None
) -> dict[str, Tensor]:
    """One epoch's logits as they are stored, without the dimension of epochs.

        float16: rounded.    int8: offset + scale q, q from -127 to 127, to within scale / 2
        top-k: the k largest, float16, their classes, and log sum exp of all others
        codebook: codes from -128 to 127 that stand for the logits up to a constant, see `Codebook`

    Values beyond float16's range are cut to its largest.
    """
    if codebook is not None:
        return {"codes": (codebook.encode(logits.detach().float()) - CODE_OFFSET).to(torch.int8).cpu()}
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
    if config.storage == "codebook":
        codes = tensors["codes"][epoch % config.epochs].long() + CODE_OFFSET
        return _codebook_of(tensors, codes.device).decode(codes)
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
    if config.storage == "online":
        return {}
    epochwise = region_table(config, num_canvases, num_classes).items() - codebook_table(config, num_classes).items()
    stored = {name: torch.empty(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in sorted(epochwise)}
    canvases = KeptCanvases(canvases_of, num_canvases, image_shape, device)
    asking = _Asking(
        Regions(canvases, num_canvases, image_shape, config, preprocess, grid, seed, device),
        observer,
        num_classes,
        batch_size,
    )
    codebook = asking.codebook(progress) if config.storage == "codebook" else None
    found = _fitting(kept.read() if kept is not None else [], stored)
    for epoch, labels in enumerate(found):
        for name, tensor in labels.items():
            stored[name][epoch] = tensor
    progress.start("labelling regions", config.epochs * num_canvases)
    progress.advance(len(found) * num_canvases)
    with nullcontext() if kept is None else kept.whole():
        for epoch in range(len(found), config.epochs):
            labels = store_logits(asking.logits(epoch, progress), config, codebook)
            for name, tensor in labels.items():
                stored[name][epoch] = tensor
            if kept is not None:
                kept.add(labels)
    progress.finish()
    return stored | ({} if codebook is None else {name: part.cpu().half() for name, part in vars(codebook).items()})


def fitted_epochs(config: RegionLabels, num_canvases: int) -> int:
    """How many epochs' labels the codebook is fitted to, the first ones; 0 without a codebook."""
    return min(config.epochs, -(-MOST_FITTED // num_canvases)) if config.storage == "codebook" else 0


class _Asking:
    """An observer asked epoch by epoch; what the codebook was fitted to is not asked again."""

    def __init__(self, regions: Regions, observer: Labeller, num_classes: int, batch_size: int) -> None:
        self._regions = regions
        self._observer = observer
        self._num_classes = num_classes
        self._batch_size = batch_size
        self._known: list[Tensor] = []

    def logits(self, epoch: int, progress: Progress) -> Float[Tensor, "canvases classes"]:
        """Of every canvas's region in an epoch, float32; the progress is told of each."""
        if epoch < len(self._known):
            progress.advance(len(self._known[epoch]))
            return self._known[epoch]
        logits = self._regions.logits(self._observer, epoch, self._batch_size, progress.advance)
        check_columns(logits, self._num_classes)
        return logits

    def codebook(self, progress: Progress) -> Codebook:
        """Fitted to the labels of the first epochs."""
        config, num_canvases = self._regions.config, self._regions.num_canvases
        epochs = fitted_epochs(config, num_canvases)
        progress.start("labelling regions for their codebook", epochs * num_canvases)
        self._known = [self.logits(epoch, progress) for epoch in range(epochs)]
        progress.finish()
        return fit_codebook(torch.cat(self._known), config.code_bytes, generator(self._regions.seed, "codebook"))


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


def _epoch_table(config: RegionLabels, num_canvases: int, num_classes: int) -> Table:
    """What one epoch's labels are stored as."""
    rows = (num_canvases,)
    if config.storage == "float16":
        return {"logits": ("F16", (*rows, num_classes))}
    if config.storage == "int8":
        return {"logits": ("I8", (*rows, num_classes)), "scale": ("F16", rows), "offset": ("F16", rows)}
    if config.storage == "online":
        return {}
    if config.storage == "codebook":
        return {"codes": ("I8", (*rows, config.code_bytes))}
    if config.top_k >= num_classes:
        raise InputError(
            f"top_k is {config.top_k} and there are {num_classes} classes; keep fewer of them, or take storage 'int8'"
        )
    kept = (*rows, config.top_k)
    return {"classes": (class_dtype(num_classes), kept), "logits": ("F16", kept), "rest": ("F16", rows)}


def _bytes(table: Table) -> int:
    return sum(math.prod(shape) * DTYPES[dtype].itemsize for dtype, shape in table.values())


def _codebook_of(tensors: Mapping[str, Tensor], device: torch.device) -> Codebook:
    return Codebook(*(tensors[name].to(device).float() for name in ("mean", "directions", "entries")))


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
