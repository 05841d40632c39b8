"""Folders and tables of pictures: RDED's, SRe2L's and LIC's folders, Hugging Face's tables and data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.base.container import parse_json
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.data.decoding import Rules, decode_parts
from attar.data.folder import open_folder
from attar.data.hub import open_hub
from attar.data.image_set import ImageSet
from attar.data.offers import Encoded, Source
from attar.data.tables import Table, holds_tables, open_tables
from attar.sets.exports.rendering import ABOUT, CLASSES
from attar.sets.imports.foreign_set import MOST_VALUES, ForeignSet, labels_of
from attar.sets.imports.tensors import learned_rate

MOST_JSON_BYTES = 2**24


def read_pictures(path: Path, rules: Rules, progress: Progress) -> ForeignSet:
    """Labelled pictures as uint8: a folder of class folders, tables, or a folder of these (see `open_tables`).

    classes.json of attar's own export gives the true names of class folders, attar-export.json the learned rate.

    Args:
        path: the folder or file.
        rules: size and colours of the pictures.
        progress: shows their decoding.

    Raises:
        InputError: as of `load_images`, or more values than are allowed.
    """
    if path.is_file() or holds_tables(path):
        foreign = _found(open_tables(path, soft=True), "a table of pictures", rules, progress)
        return replace(foreign, rate=_exported_rate(path))
    foreign = _found(open_folder(path), "a folder of class folders", rules, progress)
    return replace(foreign, classes=_true_names(path, foreign.classes or ()), rate=_exported_rate(path))


def read_hub(name: str, rules: Rules, progress: Progress) -> ForeignSet:
    """Labelled pictures as uint8 of "hf:NAME" or "hf:NAME:SPLIT". Raises InputError as of `load_images`."""
    return _found(open_hub(name, soft=True), "a data set of the Hugging Face hub", rules, progress)


def _found(source: Source, form: str, rules: Rules, progress: Progress) -> ForeignSet:
    part = source.train.open(range(len(source.train.classes)))
    assert isinstance(part, Encoded)
    images = _decoded(part, rules, progress)
    notes: tuple[str, ...] = ("the train part; the test part is left out",) if source.test is not None else ()
    table = part.pictures
    if not isinstance(table, Table) or (soft := table.soft_labels()) is None:
        return ForeignSet(images.images, form, images.labels, classes=images.classes, notes=notes)
    what = f"{table.soft_column!r} of {table.title}"
    _, numbers = labels_of(torch.from_numpy(soft), what)
    notes += (f"soft labels are the column {table.soft_column!r}",)
    if table.label_column is None:
        return ForeignSet(images.images, form, soft=numbers, notes=notes)
    if table.names is None and table.labels.dtype.kind in "iu":
        # Numbers count the columns of the soft labels, whichever of them occur.
        labels, _ = labels_of(torch.from_numpy(table.labels.astype("i8")), f"{table.label_column!r} of {table.title}")
        return ForeignSet(images.images, form, labels, numbers, notes=notes)
    return ForeignSet(images.images, form, images.labels, numbers, images.classes, notes=notes)


def _decoded(part: Encoded, rules: Rules, progress: Progress) -> ImageSet:
    (first,) = decode_parts([part.select(torch.arange(1))], rules, None, Silent())
    values = len(part) * first.images.numel()
    if values > MOST_VALUES:
        raise InputError(f"{len(part)} images have {values} values; at most {MOST_VALUES} are allowed, import fewer")
    (images,) = decode_parts([part], rules, None, progress)
    return images


def _true_names(folder: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    listed = folder / CLASSES
    entries = _exported_json(listed)
    if entries is None:
        return folders
    try:
        names = {str(entry["folder"]): str(entry["name"]) for entry in entries}
        return tuple(names[folder] for folder in folders)
    except (KeyError, TypeError):
        raise InputError(f"{listed} does not list the folders beside it; remove it, or export again") from None


def _exported_rate(path: Path) -> float | None:
    return learned_rate(_exported_json(path / ABOUT)) if path.is_dir() else None


def _exported_json(path: Path) -> Any:
    """What a .json of attar's own export says; None where there is none."""
    if not path.is_file() or path.stat().st_size > MOST_JSON_BYTES:
        return None
    return parse_json(path.read_bytes(), f"{path} is damaged")
