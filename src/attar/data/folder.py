"""Pictures in folders: ROOT/CLASS/picture.png, or ROOT/train/CLASS/picture.png beside ROOT/test (or ROOT/val)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from attar.base.errors import InputError
from attar.data.offers import TEST_NAMES, Encoded, Offer, Source, stamps

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}) | {
    *(".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
}


def open_folder(root: Path) -> Source:
    """The classes and parts of a folder of class folders.

    Class folders are sorted by name; files below them, at any depth, are theirs; hidden files and files that are no
    pictures are passed over. The test part is ROOT/test, else ROOT/val (or valid, validation) where that has class
    folders.

    Raises:
        InputError: no class folders, a single one, or one without pictures (one line with the mend).
    """
    train, test = _parts(root)
    name = root.resolve().name or "images"  # never an absolute path: it stands in manifests
    return Source(name, _offer(train), _offer(test) if test is not None else None)


def _parts(root: Path) -> tuple[Path, Path | None]:
    folders = {folder.name.lower(): folder for folder in _subfolders(root)}
    tests = [folders[name] for name in TEST_NAMES if name in folders and _subfolders(folders[name])]
    only_splits = set(folders) <= {"train", *TEST_NAMES}
    if "train" in folders and _subfolders(folders["train"]) and (tests or only_splits):
        return folders["train"], tests[0] if tests else None
    if tests and only_splits and "train" not in folders:
        raise InputError(f"{root} has {', '.join(sorted(folders))} but no train folder; give {root}/train/CLASS/*.png")
    return root, None


def _subfolders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not _ignored(entry.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _offer(root: Path) -> Offer:
    folders = _class_folders(root)
    names = tuple(folders)
    return Offer(names, lambda chosen: _listed(root, folders, [names[index] for index in chosen]))


def _class_folders(root: Path) -> dict[str, Path]:
    """Class name -> folder, sorted. Names are NFC: the same letters are the same class on every file system."""
    folders = [(unicodedata.normalize("NFC", folder.name), folder) for folder in _subfolders(root)]
    if not folders:
        loose = sum(1 for entry in root.iterdir() if _is_picture(entry.name))
        content = f"holds {loose} images but no class folders" if loose else "holds no class folders"
        raise InputError(
            f"{root} {content}; put the images of each class in a folder of its own: {root}/CLASS/picture.png"
        )
    if len(folders) == 1:
        raise InputError(f"{root} has one class folder, {folders[0][0]!r}; a classifier needs at least 2")
    by_name = dict(sorted(folders))
    if len(by_name) != len(folders):
        raise InputError(f"two class folders of {root} differ only in how Unicode spells them; rename one")
    return by_name


def _is_picture(name: str) -> bool:
    return not _ignored(name) and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (called for every file)


class _Files:
    """Picture files below one folder."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root, self.paths = root, paths

    def read(self, position: int) -> Path:
        return Path(self.paths[position])

    def name(self, position: int) -> str:
        return self.paths[position]

    def identity(self, positions: Sequence[int]) -> list[Any]:
        paths = [self.paths[position] for position in positions]
        return [str(self.root.resolve()), [os.path.relpath(path, self.root) for path in paths], stamps(paths)]


def _listed(root: Path, folders: dict[str, Path], chosen: list[str]) -> Encoded:
    """The pictures of the chosen classes: labelled in the order chosen, listed in the order of the folders."""
    paths: list[str] = []
    labels: list[int] = []
    for name in sorted(chosen):
        pictures = sorted(_walk(folders[name], set()))
        if not pictures:
            raise InputError(f"the class folder {folders[name]} has no images; add some, or remove the folder")
        paths += pictures
        labels += [chosen.index(name)] * len(pictures)
    return Encoded(_Files(root, paths), torch.arange(len(paths)), torch.tensor(labels), tuple(chosen))


def _walk(folder: Path | str, entered: set[str]) -> Iterator[str]:
    """Every picture below `folder`; linked folders are followed, but none is entered twice."""
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_picture(entry.name) and entry.is_file():
                yield entry.path
            elif not _ignored(entry.name) and entry.is_dir():
                yield from _walk(entry.path, entered)
