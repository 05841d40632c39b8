"""How an observer's logits of regions are stored: in full, quantised, as the largest ones, as codes, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.base.container import DTYPE_NAMES, DTYPES
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.methods.labels.checkpoints import KeptEpochs, Labels
from attar.methods.labels.codebook import ENTRIES, MOST_FITTED, Codebook, fit_codebook
from attar.methods.labels.regions import Labeller, RegionLabels, Regions

Table = dict[str, tuple[str, tuple[int, ...]]]

# The most logits of one epoch: M K as they are read, in float32.
LARGEST_EPOCH_VALUES = 2**34
# Codes run from 0 to 255, and int8 from -128 to 127.
CODE_OFFSET = 128
HALF = torch.finfo(torch.float16)


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
    all_epochs = {name: (dtype, (config.epochs, *shape)) for name, (dtype, shape) in table.items()}
    return all_epochs | _codebook_table(config, num_classes)


def epoch_bytes(config: RegionLabels, num_canvases: int, num_classes: int) -> int:
    """Bytes of one epoch's labels as they are stored, without what all epochs share."""
    return _bytes(_epoch_table(config, num_canvases, num_classes))


def fitted(config: RegionLabels, num_canvases: int | Sequence[int], num_classes: int) -> RegionLabels:
    """The labels with `epochs` lowered to what `label_bytes` allows, all shards together, and no limit any more.

    Raises:
        InputError: not even one epoch fits, and what `region_table` refuses.
    """
    shards = [num_canvases] if isinstance(num_canvases, int) else list(num_canvases)
    bytes_of_an_epoch = sum(epoch_bytes(config, count, num_classes) for count in shards)
    if config.label_bytes is None:
        return config
    shared = len(shards) * _bytes(_codebook_table(config, num_classes))
    epochs = min(config.epochs, max(0, config.label_bytes - shared) // bytes_of_an_epoch)
    if not epochs:
        raise InputError(
            f"label_bytes is {config.label_bytes} and the labels of one epoch take {bytes_of_an_epoch + shared} as "
            f"{config.storage}; allow more, or take storage 'int8', 'top-k' or 'codebook'"
        )
    return config.model_copy(update={"epochs": epochs, "label_bytes": None})


def fitted_epochs(config: RegionLabels, num_canvases: int) -> int:
    """To the labels of how many epochs, the first ones, the codebook is fitted; 0 without a codebook."""
    return min(config.epochs, -(-MOST_FITTED // num_canvases)) if config.storage == "codebook" else 0


def store_logits(
    logits: Float[Tensor, "canvases classes"], config: RegionLabels, codebook: Codebook | None = None
) -> Labels:
    """One epoch's logits as they are stored, without the dimension of epochs.

        float16: rounded.    int8: offset + scale q, q from -127 to 127, to within scale / 2
        top-k: the k largest, float16, their classes, and log sum exp of all others
        codebook: codes from -128 to 127 that stand for the logits up to a constant, see `Codebook`

    Values beyond float16's range are cut to its largest.
    """
    if codebook is not None:
        return {"codes": (codebook.encode(logits.detach().float()) - CODE_OFFSET).to(torch.int8).cpu()}
    logits = logits.detach().cpu().float().clamp(-HALF.max, HALF.max)
    if config.storage == "float16":
        return {"logits": logits.half()}
    if config.storage == "int8":
        return _store_int8(logits)
    if config.storage == "online":
        return {}
    values, classes = logits.topk(config.top_k, dim=1)
    rest = logits.scatter(1, classes, -math.inf).logsumexp(1)
    dtype = DTYPES[_class_dtype(logits.shape[1])]
    return {"classes": classes.to(dtype), "logits": values.half(), "rest": rest.clamp_max(HALF.max).half()}


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
        shared = (tensors[name].to(codes.device).float() for name in ("mean", "directions", "entries"))
        return Codebook(*shared).decode(codes)
    stored = {name: tensor[epoch % config.epochs] for name, tensor in tensors.items()}
    if config.storage == "float16":
        return stored["logits"].float()
    if config.storage == "int8":
        return stored["offset"].float().unsqueeze(1) + stored["scale"].float().unsqueeze(1) * stored["logits"].float()
    others = stored["rest"].float() - math.log(num_classes - config.top_k)
    spread = others.unsqueeze(1).repeat(1, num_classes)
    return spread.scatter(1, stored["classes"].long(), stored["logits"].float())


def check_region_tensors(
    tensors: Mapping[str, Tensor], config: RegionLabels, num_canvases: int, num_classes: int
) -> None:
    """Raise InputError unless these are exactly what `label_regions` gives for so many canvases, value by value."""
    expected = region_table(config, num_canvases, num_classes)
    received = {name: (DTYPE_NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}
    for name in sorted(expected.keys() | received.keys()):
        if expected.get(name) != received.get(name):
            raise InputError(
                f"tensor {name[:80]!r} of the region labels is {received.get(name)} and must be {expected.get(name)}"
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
    regions: Regions,
    num_classes: int,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
    kept: KeptEpochs | None = None,
) -> Labels:
    """The observer's logits of every region of every epoch, as they are stored: names to [E, M, ...] on the CPU.

    Args:
        observer: on the regions' device.
        regions: of canvases as training will see them; `fitted` has turned `label_bytes` into epochs.
        num_classes: K.
        batch_size: regions at once.
        progress: told every batch.
        kept: where labels are kept epoch by epoch; epochs that are there already are not labelled again.

    Raises:
        InputError: logits that are not finite, or of another number of classes.

    Source: Shen & Xing 2022 (FKD); LIC section 2.3.
    """
    config, num_canvases = regions.config, regions.num_canvases
    progress, checkpoints = progress or Silent(), kept or KeptEpochs()
    if config.storage == "online":
        return {}
    logits_of_codebook: list[Tensor] = []

    def ask(epoch: int) -> Tensor:
        if epoch < len(logits_of_codebook):
            progress.advance(num_canvases)
            return logits_of_codebook[epoch]
        logits = regions.logits(observer, epoch, batch_size, progress.advance)
        check_columns(logits, num_classes)
        return logits

    table = region_table(config, num_canvases, num_classes).items() - _codebook_table(config, num_classes).items()
    # Filled epoch by epoch: stacked at the end, they would be in memory twice.
    stored = {name: torch.empty(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in sorted(table)}
    codebook = None
    if config.storage == "codebook":
        # A resumed run asks for these epochs again: files have codes, and codebooks are fitted to the logits.
        epochs = range(fitted_epochs(config, num_canvases))
        progress.start("labelling regions for their codebook", len(epochs) * num_canvases)
        logits_of_codebook.extend([ask(epoch) for epoch in epochs])
        progress.finish()
        codebook = fit_codebook(torch.cat(logits_of_codebook), config.code_bytes, generator(regions.seed, "codebook"))
    first = checkpoints.read_into(stored)
    progress.start("labelling regions", config.epochs * num_canvases)
    progress.advance(first * num_canvases)
    for epoch in range(first, config.epochs):
        labels = store_logits(ask(epoch), config, codebook)
        for name, tensor in labels.items():
            stored[name][epoch] = tensor
        checkpoints.write(epoch, labels)
    progress.finish()
    return stored | ({} if codebook is None else {name: part.cpu().half() for name, part in vars(codebook).items()})


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
    largest = (*rows, config.top_k)
    return {"classes": (_class_dtype(num_classes), largest), "logits": ("F16", largest), "rest": ("F16", rows)}


def _codebook_table(config: RegionLabels, num_classes: int) -> Table:
    """What labels with storage "codebook" share; {} with any other."""
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


def _class_dtype(num_classes: int) -> str:
    """The smallest dtype that holds every class's index."""
    return next(name for name in ("I8", "I16", "I32") if num_classes - 1 <= torch.iinfo(DTYPES[name]).max)


def _bytes(table: Table) -> int:
    return sum(math.prod(shape) * DTYPES[dtype].itemsize for dtype, shape in table.values())


def _store_int8(logits: Tensor) -> Labels:
    low, high = logits.amin(1), logits.amax(1)
    offset = ((low + high) / 2).half()
    reach = torch.maximum((high - offset.float()).abs(), (offset.float() - low).abs())
    scale = (reach / 127).clamp(HALF.smallest_normal, HALF.max)
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
