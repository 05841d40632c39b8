"""One door for real images: folders, arrays, tables, the hub, built-in data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.base.shapes import Int64
from attar.data.arrays import open_array_file, open_arrays
from attar.data.decoding import Channels, Resize, Rules, decode_parts
from attar.data.folder import SUFFIXES, open_folder
from attar.data.hub import HUB, open_hub
from attar.data.image_set import ImageSet, Splits
from attar.data.offers import Part, Source, offer_of
from attar.data.subsets import match_classes
from attar.data.tables import holds_tables, open_tables

AnySource = str | Path | ImageSet | Splits | tuple[Any, Any]


def load_images(
    source: AnySource,
    *,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    classes: Sequence[str | int] | str | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    memory_limit_bytes: int | None = None,
    test: AnySource | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Labelled images with a training and a test part, from wherever they are.

    Args:
        source: "digits"; a folder ROOT/CLASS/picture.png or ROOT/train/CLASS/... beside ROOT/test (or val); a .npz or
            .npy file; a .parquet file or folder; a folder that `datasets` saved; "hf:NAME" or "hf:NAME:SPLIT"; (images,
            labels) of numpy or torch; an ImageSet or Splits.
        image_size: pixels, a side or (height, width). None: the images have one size already.
        resize: for images of another size: refuse them, squash them, or crop their centre to the aspect ratio first.
        channels: keep what there is, or make all of them grey or RGB.
        classes: a named subset such as "bird", or class names and indices; their order becomes the labels' order.
        test_fraction: the share of each class that is held out, in (0, 1), where the source has no test part.
        split_seed: which images are held out. A class's share depends on its name and the seed only.
        memory_limit_bytes: decoded images beyond it are memory-mapped from the cache. None: half of what is available.
        test: a source of its own for the test part.
        progress: shows the decoding.

    Raises:
        InputError: whatever cannot be read or does not fit together, in one line with the mend.

    Example:
        >>> load_images("digits").train.image_shape
        (1, 8, 8)
    """
    rules = Rules(sides(image_size), resize, channels)
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}; give a share between 0 and 1, e.g. 0.2")
    progress = progress or Silent()
    opened = _open(source)
    if test is not None:
        beside = _open(test)
        opened = replace(opened, test=beside.test or beside.train)
    parts, names = _open_parts(opened, classes, test_fraction, split_seed)
    parts = [replace(part, classes=names) for part in parts]
    train, held_out = decode_parts(parts, rules, memory_limit_bytes, progress)
    if train.image_shape != held_out.image_shape:
        raise InputError(
            f"training images are {_shape(train)} and test images {_shape(held_out)}; "
            "make them one, e.g. --image-size 32 --resize crop, --channels rgb"
        )
    return Splits(train, held_out, opened.name)


def sides(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of a side or of both; None stays None."""
    if image_size is None or isinstance(image_size, int):
        return None if image_size is None else (image_size, image_size)
    if len(image_size) != 2:
        raise InputError(f"image size {tuple(image_size)} has {len(image_size)} sides; give one, or (height, width)")
    return int(image_size[0]), int(image_size[1])


def _shape(images: ImageSet) -> str:
    channels, height, width = images.image_shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"


def _open(source: AnySource) -> Source:
    if isinstance(source, ImageSet):
        return Source("arrays", offer_of(source))
    if isinstance(source, Splits):
        return Source(source.name, offer_of(source.train), offer_of(source.test))
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise InputError(f"{len(source)} arrays were given; give two, (images, labels)")
        return open_arrays(*source)
    if not isinstance(source, str | Path):
        raise InputError(
            f"a {type(source).__name__} is no source of images; give a folder, a file, or (images, labels)"
        )
    if source in BUILTIN:
        return Source(str(source), offer_of(BUILTIN[str(source)]()))
    if str(source).startswith(HUB):
        return open_hub(str(source))
    return _open_path(local_path(source))


def local_path(source: str | Path) -> Path:
    """The path, its ~ replaced; where no such user is, as it was, to be reported as absent."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _open_path(path: Path) -> Source:
    suffix = path.suffix.lower()
    if not path.exists():
        if len(path.parts) == 1 and not suffix:
            raise unknown("file, folder or built-in data set", str(path), BUILTIN)
        raise InputError(f"{path} does not exist; give a folder of class folders, a .npz, .npy or .parquet file")
    if path.is_dir():
        return open_tables(path) if holds_tables(path) else open_folder(path)
    if suffix in (".npz", ".npy"):
        return open_array_file(path)
    if suffix in (".parquet", ".arrow"):
        return open_tables(path)
    if suffix in SUFFIXES:
        raise InputError(f"{path} is a single image; give the folder that holds the class folders")
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z", ".bz2", ".xz"):
        raise InputError(f"{path} is an archive; unpack it and give the folder")
    raise InputError(f"{path} is no source of images; give a folder of class folders, a .npz, .npy or .parquet file")


def _open_parts(
    source: Source, classes: Sequence[str | int] | str | None, test_fraction: float, split_seed: int
) -> tuple[list[Part], tuple[str, ...]]:
    """The training and test part with the wanted classes, and what these are called."""
    available = source.train.classes
    places, names = (list(range(len(available))), available) if classes is None else match_classes(classes, available)
    train = source.train.open(places)
    if source.test is None:
        rest, share = stratified_places(train.labels, train.classes, test_fraction, split_seed)
        return [train.select(rest), train.select(share)], tuple(names)
    missing = [available[place] for place in places if available[place] not in source.test.classes]
    surplus = sorted(set(source.test.classes) - set(available)) if classes is None else []
    if missing or surplus:
        lacking, name = ("test", missing[0]) if missing else ("training", surplus[0])
        raise InputError(
            f"{len(missing or surplus)} classes are missing from the {lacking} part, first {name!r}; "
            "give both parts the same classes"
        )
    for place, size in zip(places, torch.bincount(train.labels, minlength=len(places)).tolist(), strict=True):
        if not size:
            raise InputError(f"class {available[place]!r} has no training images; add some, or leave it out")
    test_places = [source.test.classes.index(available[place]) for place in places]
    return [train, source.test.open(test_places)], tuple(names)


def stratified_places(
    labels: Int64[Tensor, " items"], classes: Sequence[str], fraction: float, seed: int, purpose: str = "split"
) -> tuple[Int64[Tensor, " rest"], Int64[Tensor, " share"]]:
    """(the rest, a seeded share of each class: at least one item and never all), both ascending.

    Another purpose is another draw.

    Raises:
        InputError: a class of fewer than two images.
    """
    rests: list[Int64[Tensor, " members"]] = []
    shares: list[Int64[Tensor, " members"]] = []
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            raise InputError(
                f"class {name!r} has {len(members)} images; at least 2 are needed to train and to test, or a test part"
            )
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        order = members[torch.randperm(len(members), generator=generator(seed, purpose, name))]
        shares.append(order[:count])
        rests.append(order[count:])
    return torch.cat(rests).sort().values, torch.cat(shares).sort().values


def digits() -> ImageSet:
    """1797 scans of handwritten digits: 8 x 8, grey, ten classes; the values 0..16 become 0..255 by rounding 255/16.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (its test part), as shipped with
        scikit-learn.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = np.floor(scans.images * (255 / 16) + 0.5).astype(np.uint8)
    labels = torch.from_numpy(scans.target.astype(np.int64))
    return ImageSet(torch.from_numpy(pixels)[:, None], labels, tuple(str(digit) for digit in range(10)))


BUILTIN = {"digits": digits}
