"""Codes of a whole image set: computed once, kept by content, continued after an interruption."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key
from attar.base.interrupts import stop_requested
from attar.base.progress import Progress, Silent
from attar.base.shapes import Float
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec

MEMORY_LIMIT_BYTES = 1 << 30
PIXELS_PER_BATCH = 1 << 20
SYNC_BYTES = 1 << 26


def encode_images(
    codec: Codec,
    images: ImageSet,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Float[Tensor, "items c h w"]:
    """The code of every image, float32, on the CPU.

    Codes are kept under $ATTAR_CACHE/codes, named by the codec, the images and the kind of device. Each batch is
    appended to a ".part" file, so that a call after an interruption continues; the finished file appears by renaming.
    Where encoding is about as cheap as reading (`codec.cheap`), nothing is kept unless memory would not do.

    Args:
        codec: moved to `device` for the time of this call.
        images: of the codec's `image_shape`.
        device: where the codec computes.
        batch_size: images a batch, at least 1; by default about a million pixels as the codec sees them, at most 256.
        cache: False computes in memory, and neither reads nor writes the disk.
        progress: what to report to.

    Returns:
        In memory up to `MEMORY_LIMIT_BYTES`; beyond that memory-mapped (changes to it stay private to the process).

    Raises:
        InputError: the images do not fit the codec, codes are not finite, or the cache's disk cannot be written.
        KeyboardInterrupt: on Ctrl-C, after the batch at hand.
    """
    if images.image_shape != codec.image_shape:
        raise InputError(
            f"the images are {images.image_shape} and the codec was made for {codec.image_shape}; "
            "resize the images, or make a codec for them"
        )
    if batch_size is None:
        _, height, width = codec.network_shape
        batch_size = max(1, min(256, PIXELS_PER_BATCH // (height * width)))
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    shape = (len(images), *codec.code_shape)
    num_bytes = 4 * len(images) * codec.num_code_values
    work = _Work(codec, images, torch.device(device), batch_size, progress or Silent())
    with stop_requested() as stop:
        if cache and num_bytes and not (codec.cheap and num_bytes <= MEMORY_LIMIT_BYTES):
            return _read(_cached(work, num_bytes, stop), shape)
        codes = torch.empty(shape)
        done = 0
        for block in work.blocks(0, stop):
            codes[done : done + len(block)] = block
            done += len(block)
        return codes


@dataclass(frozen=True)
class _Work:
    """Batches of codes, in order, from any item on."""

    codec: Codec
    images: ImageSet
    device: torch.device
    batch_size: int
    progress: Progress

    def blocks(self, start: int, stop: threading.Event) -> Iterator[Tensor]:
        """Blocks of float32 codes on the CPU. Raises KeyboardInterrupt for `stop`, once a block is dealt with."""
        self.progress.start("encoding images", len(self.images))
        try:
            if start:
                self.progress.advance(start)
            with _placed(self.codec, self.device):
                for first in range(start, len(self.images), self.batch_size):
                    block = self._encode(self.images.images[first : first + self.batch_size])
                    yield block
                    self.progress.advance(len(block))
                    if stop.is_set():
                        raise KeyboardInterrupt
        finally:
            self.progress.finish()

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        codes = self.codec.encode(images.to(self.device).float() / 255).float().cpu()
        if not bool(codes.isfinite().all()):
            raise InputError(
                f"the {self.codec.kind} codec gave codes that are not finite; its weights are damaged or do not suit "
                "float32: choose other weights"
            )
        return codes.contiguous()


def _cached(work: _Work, num_bytes: int, stop: threading.Event) -> Path:
    """The finished file of codes; what is missing of it is made first."""
    with _disk_errors():
        key = content_key("codes", 1, work.codec.identity(), work.images.fingerprint, work.device.type)
        final = cache_directory("codes") / f"{key}.f32"
        part = final.with_suffix(".part")
        for path, whole in ((final, (num_bytes,)), (part, range(num_bytes + 1))):
            if path.exists() and path.stat().st_size not in whole:
                path.unlink()
    if not final.exists():
        _append_missing(work, part, num_bytes, stop)
        with _disk_errors():
            try:
                part.replace(final)
            except FileNotFoundError:
                if not final.exists():  # else another process finished the same work first
                    raise
    return final


def _append_missing(work: _Work, part: Path, num_bytes: int, stop: threading.Event) -> None:
    """Write the codes that `part` lacks."""
    # Every process starts at a whole item within what is there and writes the same values at the same places, without
    # truncating: the file never has a hole, and two processes at the same work do not harm each other.
    item_bytes = num_bytes // len(work.images)
    with _disk_errors():
        handle = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        done = os.fstat(handle).st_size // item_bytes
        file.seek(done * item_bytes)
        unsynced = 0
        for block in work.blocks(done, stop):
            remaining = memoryview(block.numpy().astype("<f4", copy=False).tobytes())
            unsynced += len(remaining)
            with _disk_errors():
                while remaining:
                    remaining = remaining[file.write(remaining) :]
                if unsynced >= SYNC_BYTES:
                    os.fsync(handle)
                    unsynced = 0
        with _disk_errors():
            os.fsync(handle)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The codes in `path`, memory-mapped (copy on write) where they are larger than the limit."""
    if path.stat().st_size > MEMORY_LIMIT_BYTES:
        return torch.from_numpy(np.memmap(path, dtype="<f4", mode="c", shape=shape))
    return torch.from_numpy(np.fromfile(path, dtype="<f4").reshape(shape))


@contextmanager
def _placed(codec: Codec, device: torch.device) -> Iterator[None]:
    """Move the codec to `device`, and back at the end."""
    tensors = [*codec.parameters(), *codec.buffers()]
    home = tensors[0].device if tensors else device
    codec.to(device)
    try:
        yield
    finally:
        codec.to(home)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Tell the user how to mend a disk that cannot be written; what was encoded so far is kept."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"codes cannot be written into the cache ({reason}); make room there, set ATTAR_CACHE to another disk, "
            "or encode without the cache; what is encoded so far is kept"
        ) from error
