"""Folders and tables of pictures: RDED's, SRe2L's and LIC's folders, Hugging Face's tables and data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from attar.container import parse_json
from attar.data.decoding import Rules, decode_parts
from attar.data.folder import open_folder
from attar.data.hub import open_hub
from attar.data.image_set import ImageSet
from attar.data.offers import Encoded, Source
from attar.data.tables import Table, holds_tables, open_tables
from attar.errors import InputError
from attar.exports.rendering import CLASSES
from attar.foreign.found import MOST_VALUES, Found, labels_of
from attar.progress import Progress, Silent

MOST_JSON_BYTES = 2**24


def read_pictures(path: Path, progress: Progress) -> Found:
    """Labelled pictures as uint8: a folder of class folders, tables, or a folder of these (see `open_tables`).

    classes.json of attar's own export gives the true names of class folders.

    Raises:
        InputError: as of `load_images`, or more values than are allowed.
    """
    if path.is_file() or holds_tables(path):
        return _found(open_tables(path, soft=True), "a table of pictures", progress)
    found = _found(open_folder(path), "a folder of class folders", progress)
    return replace(found, classes=_true_names(path, found.classes or ()))


def read_hub(name: str, progress: Progress) -> Found:
    """Labelled pictures as uint8 of "hf:NAME" or "hf:NAME:SPLIT". Raises InputError as of `load_images`."""
    return _found(open_hub(name, soft=True), "a data set of the Hugging Face hub", progress)


def _found(source: Source, form: str, progress: Progress) -> Found:
    part = source.train.open(range(len(source.train.classes)))
    assert isinstance(part, Encoded)
    images = _decoded(part, progress)
    notes: tuple[str, ...] = ("the train part; the test part is left out",) if source.test is not None else ()
    table = part.pictures
    if not isinstance(table, Table) or (soft := table.soft_labels()) is None:
        return Found(images.images, form, images.labels, classes=images.classes, notes=notes)
    what = f"{table.soft_column!r} of {table.title}"
    _, numbers = labels_of(torch.from_numpy(soft), what)
    notes += (f"soft labels are the column {table.soft_column!r}",)
    if table.label_column is None:
        return Found(images.images, form, soft=numbers, notes=notes)
    if table.names is None and table.labels.dtype.kind in "iu":
        # Numbers count the columns of the soft labels, whichever of them occur.
        labels, _ = labels_of(torch.from_numpy(table.labels.astype("i8")), f"{table.label_column!r} of {table.title}")
        return Found(images.images, form, labels, numbers, notes=notes)
    return Found(images.images, form, images.labels, numbers, images.classes, notes=notes)


def _decoded(part: Encoded, progress: Progress) -> ImageSet:
    (first,) = decode_parts([part.select(torch.arange(1))], Rules(), None, Silent())
    values = len(part) * first.images.numel()
    if values > MOST_VALUES:
        raise InputError(f"{len(part)} images have {values} values; at most {MOST_VALUES} are allowed, import fewer")
    (images,) = decode_parts([part], Rules(), None, progress)
    return images


def _true_names(folder: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    listed = folder / CLASSES
    if not listed.is_file() or listed.stat().st_size > MOST_JSON_BYTES:
        return folders
    entries = parse_json(listed.read_bytes(), f"{listed} is damaged")
    try:
        names = {str(entry["folder"]): str(entry["name"]) for entry in entries}
        return tuple(names[each] for each in folders)
    except (KeyError, TypeError):
        raise InputError(f"{listed} does not list the folders beside it; remove it, or export again") from None
