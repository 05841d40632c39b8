"""Arrays as numpy saves them: .npz with images and labels, .npy with labels."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attar.codecs.pixels import Pixels
from attar.container import one_line, parse_json
from attar.errors import InputError
from attar.evaluation.evaluate import RATE
from attar.foreign.found import MOST_BYTES, Found, images_of, labels_of, number_of
from attar.foreign.tensors import IMAGE_KEYS, LABEL_KEYS, RATE_KEYS

CODEC_KEYS = ("mean", "std", "triangle")


def read_arrays(path: Path) -> Found:
    """Images, labels and, where they are there, soft labels, class names, rate and preprocessing of a .npz.

    The keys are those of attar's own export; "images" may also be called x or data, "labels" y or targets.

    Raises:
        InputError: no images, pickled objects, or a damaged file; one line.
    """
    arrays = _load_all(path)
    image, label, rate = (
        next((key for key in known if key in arrays), None) for known in (IMAGE_KEYS, LABEL_KEYS, RATE_KEYS)
    )
    if image is None:
        raise InputError(f"{path.name} holds {', '.join(sorted(arrays)[:8]) or 'nothing'}; name its images 'images'")
    images, notes = images_of(_tensor(arrays[image], path), f"{image!r} of {path.name}")
    labels = soft = None
    if label is not None:
        labels, soft = labels_of(_tensor(arrays[label], path), f"{label!r} of {path.name}")
    if "soft_labels" in arrays:
        _, soft = labels_of(_tensor(arrays["soft_labels"], path), f"'soft_labels' of {path.name}")
    names, about = arrays.get("classes"), _about(arrays, path)
    found_rate = (
        learned_rate(about) if rate is None else number_of(_tensor(arrays[rate], path), f"{rate!r} of {path.name}")
    )
    return Found(
        images,
        ".npz",
        labels,
        soft,
        None if names is None else _names(names, path),
        found_rate,
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
