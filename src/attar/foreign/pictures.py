"""Folders and tables of pictures: RDED's, SRe2L's and LIC's folders, Hugging Face's parquet files."""

from __future__ import annotations

from pathlib import Path

from attar.container import parse_json
from attar.data.decoding import Rules, decode_parts
from attar.data.folder import open_folder
from attar.data.tables import open_parquet
from attar.errors import InputError
from attar.exports.rendering import CLASSES
from attar.foreign.found import Found
from attar.progress import Progress

MOST_JSON_BYTES = 2**24


def read_pictures(path: Path, progress: Progress) -> Found:
    """Labelled pictures as uint8: a folder of class folders, a parquet file, or a folder of them.

    Class folders are numbered by their sorted names; classes.json of attar's own export gives their true names.

    Raises:
        InputError: as of `load_images`.
    """
    tables = path.is_file() or any(True for pattern in ("*.parquet", "*/*.parquet") for _ in path.glob(pattern))
    source = open_parquet(path) if tables else open_folder(path)
    part = source.train.open(range(len(source.train.classes)))
    (images,) = decode_parts([part], Rules(), None, progress)
    classes = images.classes if tables else _true_names(path, images.classes)
    form = "a table of pictures" if tables else "a folder of class folders"
    return Found(images.images, form, images.labels, classes=classes)


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
