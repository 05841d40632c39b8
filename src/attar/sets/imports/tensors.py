"""Released .pt files: what torch.save wrote, read without executing any of it."""

from __future__ import annotations

import math
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attar.base.container import one_line, parse_json
from attar.base.errors import InputError
from attar.models.codecs.pixels import Pixels
from attar.sets.imports.foreign_set import MOST_BYTES, ForeignSet, images_of, labels_of, number_of
from attar.sets.manifest import RATE

MOST_PICKLE_BYTES = 2**24
MOST_EXPERIMENTS = 1000
UNWHITENED = "images_zca_"
"""With ZCA, MTT's code saves its network inputs as images_N.pt and, taken back to pictures, as images_zca_N.pt."""
IMAGE_KEYS = ("images", "image", "image_syn", "x", "data")
LABEL_KEYS = ("labels", "label", "label_syn", "y", "targets", "target")
RATE_KEYS = ("lr", "syn_lr", "rate")
ALL_KEYS = (IMAGE_KEYS, LABEL_KEYS, RATE_KEYS)


class _LeftOut:
    """Stands for a numpy object in a file, e.g. an accuracy: whatever the file says of it is ignored."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# DC's files hold accuracies as numpy numbers, which torch refuses to load and we have no use for.
_NUMPY = [
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.dtypes.{kind}{bits}DType" for kind in ("Float", "Int") for bits in (32, 64)),
]


def read_tensors(path: Path, labels: Path | None = None, experiment: int = 0) -> ForeignSet:
    """Images and labels of a .pt file.

    - {"data": [[images, labels], ...], ...}, one pair for each experiment (DC, DSA, DM)
    - [images, labels] (IDC)
    - images alone, with labels_*.pt and lr_*.pt beside images_*.pt (MTT, TESLA, FTD, GLaD, DATM)
    - {"images": ..., "labels": ..., "lr": ...}

    Args:
        path: the file.
        labels: of the labels, where they are elsewhere.
        experiment: which pair, counted from 0, where there are several.

    Raises:
        InputError: a file that holds anything else, or Python objects that would have to be executed; one line.
    """
    held = load_tensors(path)
    if experiment and not _experiments(held):
        raise InputError(f"--experiment {experiment} has no effect: {path.name} holds one set; leave it out")
    if _experiments(held):
        foreign = _of_experiment(held["data"], path, experiment)
    elif isinstance(held, list | tuple) and len(held) == 2:
        foreign = _labelled(_images(held[0], path, "a pair of images and labels (as of IDC)"), held[1], path)
    elif isinstance(held, Tensor):
        foreign = _images(held, path, "images alone (as of MTT)")
    elif isinstance(held, Mapping):
        foreign = _of_keys(held, path)
    else:
        raise _unknown(path, f"a {type(held).__name__}")
    if isinstance(held, Tensor):
        foreign = _with_files_beside(foreign, path, labels is None)
    if labels is None:
        return foreign
    return _labelled(replace(foreign, labels=None, soft=None), load_labels(labels), labels)


def load_labels(path: Path) -> Any:
    """What a file of labels holds: .pt, or .npy as a tensor."""
    if path.suffix.lower() != ".npy":
        return load_tensors(path)

    return load_array(path)


def load_tensors(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers, text, lists and dictionaries; numpy objects are left out.

    Raises:
        InputError: a file that is absent or none of torch's, that unpacks to more than it is, or that holds other
            Python objects.
    """
    _check_archive(path)
    stand_ins = [(_LeftOut, name) for name in _NUMPY]
    try:
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch have errors of their own, and the file may be anything
        refused = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class) ([\w.]+)", str(error))
        reason = f" ({refused[1]})" if refused else f": {one_line(error)[:120]}"
        if refused or "nsupported" in str(error) or "eights" in str(error):
            raise InputError(
                f"{path} holds Python objects, which are never loaded{reason}; save its tensors alone with torch.save"
            ) from None
        raise InputError(f"{path} is damaged{reason}; copy it again") from None


def _check_archive(path: Path) -> None:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path} is not a regular file; give a .pt file")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the .pt file that was released") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # zipfile's parser meets damaged archives with errors of many kinds
        raise InputError(
            f"{path} is no archive of torch.save; files of torch before 1.6 must be loaded and saved again with a newer"
        ) from None
    unpacked = sum(entry.file_size for entry in entries)
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if unpacked > min(facts.st_size, MOST_BYTES) or pickled > MOST_PICKLE_BYTES:
        raise InputError(
            f"{path} has {facts.st_size} bytes and unpacks to {unpacked}, {pickled} of them pickled; at most its own "
            f"size, {MOST_BYTES} and {MOST_PICKLE_BYTES} are allowed"
        )


def _experiments(held: Any) -> bool:
    return isinstance(held, Mapping) and isinstance(held.get("data"), list | tuple)


def _of_experiment(pairs: Any, path: Path, experiment: int) -> ForeignSet:
    if not 1 <= len(pairs) <= MOST_EXPERIMENTS or not 0 <= experiment < len(pairs):
        raise InputError(
            f"{path.name} holds {len(pairs)} experiments and number {experiment} was asked for; they count from 0"
        )
    pair = pairs[experiment]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise _unknown(path, "experiments that are no pairs of images and labels")
    foreign = _images(pair[0], path, "experiments of images and labels (as of DC, DSA, DM)")
    note = f"experiment {experiment} of {len(pairs)}, counted from 0"
    return _labelled(replace(foreign, notes=(*foreign.notes, note)), pair[1], path)


def _of_keys(held: Mapping[Any, Any], path: Path) -> ForeignSet:
    keys = {key.lower(): key for key in list(held)[:100] if isinstance(key, str)}
    image, label, rate = (next((keys[key] for key in names if key in keys), None) for names in ALL_KEYS)
    if image is None:
        raise _unknown(path, f"a dictionary with the keys {', '.join(sorted(keys)[:8]) or 'of no text'}")
    foreign = _images(held[image], path, "a dictionary of images and labels")
    if rate is not None:
        foreign = replace(foreign, rate=number_of(held[rate], f"{rate!r} of {path.name}"))
    return foreign if label is None else _labelled(foreign, held[label], path)


def _images(value: Any, path: Path, form: str) -> ForeignSet:
    images, notes = images_of(value, f"the images of {path.name}")
    return ForeignSet(images, f".pt: {form}", notes=notes)


def _labelled(foreign: ForeignSet, value: Any, path: Path) -> ForeignSet:
    labels, soft = labels_of(value, f"the labels of {path.name}")
    return replace(foreign, labels=labels, soft=soft)


def _with_files_beside(foreign: ForeignSet, path: Path, labelled: bool) -> ForeignSet:
    """With labels_best.pt, if wanted, and lr_best.pt, where they lie beside images_best.pt (or images_zca_best.pt)."""
    labels, rate = _beside(path, "labels") if labelled else None, _beside(path, "lr")
    notes = list(foreign.notes)
    if labels is not None:
        foreign = _labelled(foreign, load_tensors(labels), labels)
        notes.append(f"labels are those of {labels.name}, beside it")
    if rate is not None:
        foreign = replace(foreign, rate=number_of(load_tensors(rate), f"the rate in {rate.name}"))
        notes.append(f"the learned rate is that of {rate.name}, beside it")
    return replace(foreign, notes=tuple(notes), plain=path.name.startswith(UNWHITENED))


def _beside(path: Path, kind: str) -> Path | None:
    names = [path.name.replace("images_zca", kind), path.name.replace("images", kind)]
    files = [path.with_name(name) for name in names if name != path.name and path.with_name(name).is_file()]
    return files[0] if files else None


def _unknown(path: Path, held: str) -> InputError:
    return InputError(
        f"{path.name} holds {held}; known are images alone, [images, labels], a dictionary of both and DC's "
        "experiments: what must be rendered first (latents, decoders) is to be saved as images"
    )


CODEC_KEYS = ("mean", "std", "triangle")


def read_arrays(path: Path) -> ForeignSet:
    """Images, labels and, where they are there, soft labels, class names, rate and preprocessing of a .npz.

    The keys are those of attar's own export; "images" may also be called x or data, "labels" y or targets.

    Raises:
        InputError: no images, pickled objects, or a damaged file; one line.
    """
    arrays = _load_all(path)
    image, label, rate = (next((key for key in names if key in arrays), None) for names in ALL_KEYS)
    if image is None:
        raise InputError(f"{path.name} holds {', '.join(sorted(arrays)[:8]) or 'nothing'}; name its images 'images'")
    images, notes = images_of(_tensor(arrays[image], path), f"{image!r} of {path.name}")
    labels = soft = None
    if label is not None:
        labels, soft = labels_of(_tensor(arrays[label], path), f"{label!r} of {path.name}")
    if "soft_labels" in arrays:
        _, soft = labels_of(_tensor(arrays["soft_labels"], path), f"'soft_labels' of {path.name}")
    names, about = arrays.get("classes"), _about(arrays, path)
    learned = (
        learned_rate(about) if rate is None else number_of(_tensor(arrays[rate], path), f"{rate!r} of {path.name}")
    )
    return ForeignSet(
        images,
        ".npz",
        labels,
        soft,
        None if names is None else _names(names, path),
        learned,
        _preprocess(arrays, about, path),
        notes,
    )


def load_array(path: Path) -> Tensor:
    """The array of a .npy file. Raises InputError for pickled objects and damaged files."""
    try:
        with path.open("rb") as file:
            return _tensor(_read(file, path.stat().st_size, path.name), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _load_all(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise InputError(f"{path} unpacks to more than {MOST_BYTES} bytes, the most that is allowed")
            arrays = {}
            for entry in entries:
                with archive.open(entry) as file:
                    name = entry.filename.removesuffix(".npy").lower()
                    arrays[name] = _read(file, entry.file_size, f"{name!r} of {path.name}")  # type: ignore[arg-type]
        return arrays
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib meet damaged archives with errors of many kinds
        raise InputError(f"{path} cannot be read as .npz: {one_line(error)[:120]}") from None


def _read(file: BinaryIO, num_bytes: int, what: str) -> np.ndarray:
    """One array, whose header must announce no more than there is."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read_header(file)
        if dtype.hasobject:
            raise InputError(f"{what} holds Python objects (pickle), which are never loaded; save plain arrays")
        count = math.prod(shape)
        if count * dtype.itemsize > num_bytes:
            raise InputError(f"{what} announces {count} values and holds fewer; it is damaged")
        values = np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype, count=count)
    except InputError:
        raise
    except Exception as error:  # as above: numpy's header parser
        raise InputError(f"{what} cannot be read as an array: {one_line(error)[:120]}") from None
    return values.reshape(shape, order="F" if in_columns else "C")


def _tensor(array: np.ndarray, path: Path) -> Tensor:
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise InputError(f"{path.name} has an array of {array.dtype} where numbers are needed; save it as float32")
    wide = array.dtype.newbyteorder("=") if array.dtype.kind != "u" or array.dtype.itemsize == 1 else np.dtype("i8")
    return torch.from_numpy(np.ascontiguousarray(array.astype(wide)))


def _names(array: np.ndarray, path: Path) -> tuple[str, ...]:
    flat = array.reshape(-1)
    if flat.dtype.kind == "S":
        try:
            flat = np.char.decode(flat, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"'classes' of {path.name} are no UTF-8; save them as text") from None
    return tuple(str(name) for name in flat)


def _about(arrays: dict[str, np.ndarray], path: Path) -> Any:
    """What attar's own export says of itself; None in other files."""
    about = arrays.get("about")
    return None if about is None or not about.size else parse_json(str(about.reshape(-1)[0]), f"{path.name}: 'about'")


def learned_rate(about: Any) -> float | None:
    """The learned rate that attar's own export tells of itself, if it does."""
    learned = about.get("learned") if isinstance(about, dict) else None
    rate = learned.get(RATE) if isinstance(learned, dict) else None
    return None if rate is None else number_of(rate, RATE)


def _preprocess(arrays: dict[str, np.ndarray], about: Any, path: Path) -> Pixels | None:
    """The codec of attar's own export, where "about" describes it."""
    spec = about.get("preprocess") if isinstance(about, dict) else None
    if not {"mean", "std"} <= arrays.keys() or not isinstance(spec, dict) or spec.get("kind") != "pixels":
        return None
    tensors = {name: _tensor(arrays[name], path).float() for name in CODEC_KEYS if name in arrays}
    return Pixels.restore(spec, tensors)
