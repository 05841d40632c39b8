"""Pixels live in memory when they fit there, else in a memory-mapped file of the cache."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory
from attar.base.footprint import free_bytes, size_text
from attar.base.progress import Progress
from attar.base.shapes import UInt8

Fill = Callable[[np.ndarray], None]


def fits_in_memory(num_bytes: int, limit_bytes: int | None, progress: Progress) -> bool:
    """Whether `num_bytes` of pixels stay within `limit_bytes` (None: half of the available memory); noted where not."""
    if limit_bytes is not None and limit_bytes < 0:
        raise InputError(f"memory_limit_bytes is {limit_bytes}; give 0 (always memory-map) or more")
    limit = free_bytes(torch.device("cpu")) // 2 if limit_bytes is None else limit_bytes
    if num_bytes <= limit:
        return True
    progress.note(
        f"{size_text(num_bytes)} of pixels exceed the limit of {size_text(limit)}: memory-mapping them in the cache"
    )
    return False


def gather(
    shape: tuple[int, int, int, int], fill: Fill, in_memory: bool, key: Callable[[], str]
) -> UInt8[Tensor, "items channels height width"]:
    """uint8 pixels of `shape`, written by `fill`, in memory or in a cache file that a later call reuses.

    Args:
        shape: (N, C, H, W).
        fill: writes every pixel of the array that it is given.
        in_memory: False: a read-only map of `images/KEY.uint8` in the cache, which appears whole or not at all.
        key: names the content; asked only when memory-mapping.
    """
    if in_memory:
        pixels = np.empty(shape, dtype=np.uint8)
        fill(pixels)
        return torch.from_numpy(pixels)
    path = cache_directory("images") / f"{key()}.uint8"
    if not (path.exists() and path.stat().st_size == math.prod(shape)):
        _write_map(path, shape, fill)
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    with warnings.catch_warnings():
        # A read-only map is what we want: an ImageSet is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _write_map(path: Path, shape: tuple[int, int, int, int], fill: Fill) -> None:
    free, needed = shutil.disk_usage(path.parent).free, math.prod(shape)
    if needed > free:
        raise InputError(
            f"the decoded images need {size_text(needed)} in the cache {path.parent} and {size_text(free)} are free; "
            "set ATTAR_CACHE to a larger disk, or give a smaller --image-size"
        )
    with atomic_path(path) as temporary:
        pixels = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
        fill(pixels)
        pixels.flush()
        del pixels  # some platforms do not rename a file that is still mapped
