"""Images that are arrays already: .npz and .npy files, numpy and torch in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Int64, UInt8
from attar.data.image_set import ImageSet
from attar.data.offers import TEST_NAMES, Source, offer_of

_IMAGE_KEYS = ("images", "image", "x", "data")
_LABEL_KEYS = ("labels", "label", "y", "targets")
_CLASS_KEYS = ("classes", "class_names", "label_names")


def open_arrays(images: Any, labels: Any) -> Source:
    """A pair of numpy or torch arrays as a source: see `images_from_array` and `labels_from_array`."""
    vocabulary = _vocabulary(_label_array(labels, "labels"))
    return Source("arrays", offer_of(_image_set(images, labels, vocabulary, "the array")))


def open_array_file(path: Path) -> Source:
    """A .npz (images and labels; optionally a test part and `classes`), or a .npy with its labels' .npy beside it.

    Recognised in a .npz, in any case: images/labels or x/y, alone or with `train`, and the same with `test` or `val`,
    before or after (x_train, train_images). Pickled objects are never loaded.
    """
    if path.suffix.lower() == ".npy":
        return _source(path, [(_load(path), _load(_labels_beside(path)))], None)
    with _load(path) as archive:
        keys = {key.lower(): key for key in archive.files}
        train = _find_pair(keys, "train") or _find_pair(keys, "")
        if train is None:
            raise InputError(
                f"{path.name} holds {sorted(archive.files)}; name its arrays images and labels (or x_train, y_train, "
                "x_test, y_test)"
            )
        test = next((pair for pair in (_find_pair(keys, part) for part in TEST_NAMES) if pair), None)
        names = next((_member(archive, keys[key], path) for key in _CLASS_KEYS if key in keys), None)
        pairs = [pair for pair in (train, test) if pair]
        parts = [(_member(archive, images, path), _member(archive, labels, path)) for images, labels in pairs]
        return _source(path, parts, names)


def images_from_array(images: Any, what: str = "the array") -> UInt8[Tensor, "items channels height width"]:
    """uint8 [N, C, H, W] from [N, C, H, W], [N, H, W, C] or [N, H, W], uint8 or floats in [0, 1].

    Floats become round(255 x). A uint8 array that has the layout already is shared, not copied.

    Raises:
        InputError: another dtype, another layout or one that could be read both ways, values that are not finite or
            leave [0, 1].
    """
    array = _numpy(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"the images of {what} are {array.dtype}; give uint8 in 0..255 (.astype('uint8')) or floats in [0, 1]"
        )
    array = _channels_first(array, what)
    if array.dtype != np.uint8:
        array = _from_floats(array, what)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def labels_from_array(labels: Any, vocabulary: Sequence[str], what: str = "labels") -> Int64[Tensor, " items"]:
    """int64 [N] from whole numbers or strings, [N] or [N, 1]: each label's place in the vocabulary.

    Whole numbers are taken for names too: 3 is the class "3".
    """
    array = _label_array(labels, what)
    places = {name: place for place, name in enumerate(vocabulary)}
    values, inverse = np.unique(array, return_inverse=True)
    strange = [str(value) for value in values if str(value) not in places]
    if strange:
        raise InputError(f"{what} hold {strange[0]!r}, which is no class; the classes are {', '.join(vocabulary[:10])}")
    return torch.from_numpy(np.array([places[str(value)] for value in values], dtype=np.int64)[inverse.reshape(-1)])


def class_names_from_labels(labels: Any, what: str = "labels") -> tuple[str, ...]:
    """The labels' distinct values as class names: numbers in their order, strings sorted."""
    return _vocabulary(_label_array(labels, what))


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix.lower() == ".npy" else None)
    except Exception as error:  # zipfile, zlib and numpy's header parser each have errors of their own
        raise _unreadable(path.name, error) from error


def _member(archive: Any, key: str, path: Path) -> np.ndarray:
    try:
        return archive[key]
    except Exception as error:  # as above
        raise _unreadable(f"{key!r} of {path.name}", error) from error


def _unreadable(what: str, error: Exception) -> InputError:
    if "pickle" in str(error) or "object" in str(error).lower():
        return InputError(f"{what} holds Python objects (pickle), which are never loaded; save plain arrays instead")
    reason = str(error).partition("\n")[0][:100] or type(error).__name__
    return InputError(f"{what} cannot be read as a numpy array ({reason}); save it again with numpy.savez")


def _find_pair(keys: dict[str, str], part: str) -> tuple[str, str] | None:
    """The keys of a part's images and labels, e.g. ("x_test", "y_test") or ("test_images", "test_labels").

    `keys` has them by their lower-case form.
    """
    forms = ["{0}_{1}", "{1}_{0}"] if part else ["{0}"]
    for images, labels in zip(_IMAGE_KEYS, _LABEL_KEYS, strict=True):
        for form in forms:
            pair = form.format(images, part), form.format(labels, part)
            if pair[0] in keys and pair[1] in keys:
                return keys[pair[0]], keys[pair[1]]
    return None


def _labels_beside(path: Path) -> Path:
    """images.npy -> labels.npy, x_train.npy -> y_train.npy, photos.npy -> photos_labels.npy."""
    stem = path.stem
    keys = zip(_IMAGE_KEYS, _LABEL_KEYS, strict=True)
    replaced = [re.sub(rf"(?i)(?<![a-z]){images}(?![a-z])", labels, stem) for images, labels in keys]
    for candidate in (f"{stem}_labels", *replaced):
        if candidate != stem and (path.parent / f"{candidate}.npy").exists():
            return path.parent / f"{candidate}.npy"
    raise InputError(f"{path.name} has no labels beside it; save them as {stem}_labels.npy, or save both as one .npz")


def _source(path: Path, parts: Sequence[tuple[Any, Any]], names: Any) -> Source:
    if names is None:
        vocabulary = _vocabulary(_label_array(parts[0][1], f"the labels of {path.name}"))
    else:
        vocabulary = tuple(str(name) for name in np.asarray(names).reshape(-1))
        if len(set(vocabulary)) != len(vocabulary):
            raise InputError(f"the classes of {path.name} repeat a name; give each class one name")
    sets = [_image_set(*part, vocabulary, path.name, named=names is not None) for part in parts]
    return Source(path.name, *map(offer_of, sets))


def _image_set(images: Any, labels: Any, vocabulary: tuple[str, ...], what: str, named: bool = False) -> ImageSet:
    pixels = images_from_array(images, what)
    array = _label_array(labels, f"the labels of {what}")
    if len(pixels) != len(array):
        raise InputError(f"{what} has {len(pixels)} images but {len(array)} labels; give one label for each image")
    if named and array.dtype.kind in "iu":
        return ImageSet(pixels, torch.from_numpy(array.astype(np.int64)), vocabulary)
    return ImageSet(pixels, labels_from_array(array, vocabulary, f"the labels of {what}"), vocabulary)


def _numpy(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError("the images are not one array: they differ in shape; resize them to one size first") from None


def _channels_first(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise InputError(f"the images of {what} have shape {array.shape}; give [N, C, H, W], [N, H, W, C] or [N, H, W]")
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first and last:
        raise InputError(
            f"the images of {what} have shape {array.shape}, in which both axis 1 and axis 3 could be channels; "
            "give an attar.ImageSet of uint8 [N, C, H, W]"
        )
    if not (first or last):
        raise InputError(
            f"the images of {what} have shape {array.shape} with neither 1 nor 3 channels; "
            "drop alpha or other bands first, e.g. images[..., :3]"
        )
    return array if first else np.moveaxis(array, 3, 1)


def _from_floats(array: np.ndarray, what: str, block: int = 1024) -> np.ndarray:
    pixels = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), block):
        part = array[start : start + block].astype(np.float32)
        if not np.isfinite(part).all():
            raise InputError(f"the images of {what} hold NaN or infinity; repair them or leave them out")
        low, high = float(part.min(initial=0)), float(part.max(initial=0))
        if low < 0 or high > 1:
            raise InputError(
                f"the images of {what} reach from {low:.4g} to {high:.4g}; floats must lie in [0, 1] "
                f"({'divide by 255' if low >= 0 else 'undo their normalisation'})"
            )
        pixels[start : start + block] = np.floor(part * 255 + 0.5)
    return pixels


def _label_array(labels: Any, what: str) -> np.ndarray:
    """Labels as a vector of integers or text."""
    array = _numpy(labels)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.reshape(-1)):
        array = array.astype(str)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind not in "iuU":
        raise InputError(f"{what} are {array.dtype}; give whole numbers or strings")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{what} have shape {array.shape}; give one label for each image, [N] (one-hot: .argmax(1))")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise InputError(f"{what} hold {int(array.min())}; class numbers count from 0")
    return array


def _vocabulary(array: np.ndarray) -> tuple[str, ...]:
    return tuple(str(value) for value in np.unique(array))
