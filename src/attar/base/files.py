"""Files appear whole or not at all, and content has a name of its own."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.base.errors import InputError


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raise InputError where `path` exists and may not be overwritten, or where its folder does not exist."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name to write to")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists and is left as it is; give another name, or --overwrite to replace it")
    if not path.parent.exists():
        raise InputError(f"the folder {path.parent} does not exist; make it first, or write elsewhere")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Refuses NaN and infinities.

    A configuration, at any depth, becomes the tree of its fields.
    """
    return json.dumps(
        value, default=_fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _fields(value: Any) -> dict[str, Any]:
    from pydantic import BaseModel  # here, so that the command line's help need not wait for it

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def content_key(*parts: Any) -> str:
    """A 64-digit hexadecimal key of JSON-able parts: the name under which their result is cached.

    Example:
        >>> content_key("codes", {"factor": 4}) == content_key("codes", {"factor": 4})
        True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def sha256_of(*paths: Path) -> str:
    """The hexadecimal sha256 of a file's bytes; of several files, that of their bytes one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def cache_directory(room: str) -> Path:
    """The folder of the one cache, made if absent: `$ATTAR_CACHE/room`, or the platform's user cache folder.

    Entries are named by `content_key` and written with `atomic_path`; deleting any of them is always safe.
    """
    import platformdirs

    root = Path(os.environ.get("ATTAR_CACHE") or platformdirs.user_cache_dir("attar"))
    folder = root / room
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def set_name(path: Path | str) -> str:
    """A file's name without its endings.

    Example:
        >>> set_name("runs/photos.attar.safetensors")
        'photos'
    """
    return Path(path).name.removesuffix(".safetensors").removesuffix(".attar")
