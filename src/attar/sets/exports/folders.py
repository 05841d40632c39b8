"""A folder that is there whole or not at all, and class names that may be folders' names."""

from __future__ import annotations

import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attar.base.errors import InputError
from attar.sets.exports.rendering import ABOUT, CLASSES

LONGEST_NAME_BYTES = 100
FILES = {ABOUT, CLASSES, "README.md", "images.pt", "labels.pt", "lr.pt", "config.yaml"}
"""What exports to folders write beside pictures and tables."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def folder_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """A folder name for each class: safe on every file system, no two alike, in an order that sorts as the classes do.

    Tools number classes by sorted folder name; where that order would differ, or two names would be alike, every name
    gets its class index in front.

    Example:
        >>> folder_names(("cat", "dog")), folder_names(("dog", "cat/../x"))
        (('cat', 'dog'), ('0_dog', '1_cat_.._x'))
    """
    names = tuple(_safe(name) for name in classes)
    if names == tuple(sorted(names)) and len({name.casefold() for name in names}) == len(names):
        return names
    width = len(str(len(classes) - 1))
    return tuple(f"{index:0{width}}_{name}" for index, name in enumerate(names))


def _safe(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    safe = "".join(letter if letter.isalnum() or letter in " ._-()+,'" else "_" for letter in name)
    safe = safe.encode()[:LONGEST_NAME_BYTES].decode(errors="ignore").rstrip(". ").lstrip(" ")
    if not safe.strip("."):
        safe = "class"
    reserved = safe.casefold() in (ABOUT, CLASSES) or safe.split(".")[0].casefold() in RESERVED
    return f"_{safe}" if safe.startswith(".") or reserved else safe


def refuse_folder(out: Path, overwrite: bool) -> None:
    """Raise InputError where `out` exists and is no earlier export that may be replaced, or has other files in it."""
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist; make it first, or write elsewhere")
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise InputError(f"{out} exists and is left as it is; give another name, or --overwrite to replace it")
    if out.is_symlink() or not (out / ABOUT).is_file():
        raise InputError(f"{out} is not an earlier export (it has no {ABOUT}) and is left as it is; give another name")
    stranger = next((path for path in sorted(out.rglob("*")) if not path.is_dir() and not _exported(path, out)), None)
    if stranger is not None:
        raise InputError(f"{stranger} is of no export and would be lost; move it away, or give another name")


def _exported(path: Path, out: Path) -> bool:
    """Whether a file is where an export writes one of its name."""
    below = path.relative_to(out)
    if len(below.parts) == 1:
        return path.name in FILES
    return len(below.parts) == 2 and (path.suffix == ".png" or below.match("data/*.parquet"))


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, renamed to it when the block ends well and removed when it does not."""
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        folder = work / "new"
        folder.mkdir()
        yield folder
        _exchange(folder, out, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(new: Path, out: Path, old: Path) -> None:
    """`new` becomes `out`; whatever stops it on the way, Ctrl-C too, what was there is put back."""
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
