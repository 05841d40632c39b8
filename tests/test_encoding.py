"""Codes of a whole set: right, kept, continued after an interruption, and never half taken for whole."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.interrupts import stop_requested
from attar.data.image_set import ImageSet
from attar.models.codecs import encoding
from attar.models.codecs.encoding import encode_images
from attar.models.codecs.pca import Pca, PcaConfig
from attar.models.codecs.registry import fit_codec
from attar.models.codecs.resample import ResampleConfig


class Interrupted(Exception):
    pass


class Counting(Pca):
    """A pca codec that counts what it encodes, calls itself costly, and can stop or spoil a batch."""

    cheap = False

    def __init__(self, images: ImageSet, stop_at: int | None = None) -> None:
        fitted = fit_codec(PcaConfig(factor=4, channels=3), images)
        assert isinstance(fitted, Pca)
        super().__init__(fitted._spec, **fitted.stored_tensors())
        self.stop_at, self.num_encoded = stop_at, 0

    def encode(self, images: Tensor) -> Tensor:
        if self.stop_at is not None and self.num_encoded + len(images) > self.stop_at:
            raise Interrupted
        self.num_encoded += len(images)
        return super().encode(images)


class Recording:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.total, self.done, self.finished = 0, 0, 0

    def start(self, description: str, total: int) -> None:
        self.total, self.done = total, 0

    def advance(self, count: int = 1, **figures: float) -> None:
        self.done += count

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None: ...


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return ImageSet(pixels, torch.arange(50) % 2, ("a", "b"))


def wanted(images: ImageSet) -> Tensor:
    return Counting(images).encode(images.images.float() / 255)


def kept(own_cache: Path, ending: str) -> list[Path]:
    return sorted((own_cache / "codes").glob(f"*{ending}")) if (own_cache / "codes").exists() else []


@pytest.mark.parametrize("batch_size", [None, 1, 7, 50, 1000])
@pytest.mark.parametrize("cache", [True, False])
def test_codes_do_not_depend_on_batches_or_the_cache(images: ImageSet, batch_size: int | None, cache: bool) -> None:
    codes = encode_images(Counting(images), images, batch_size=batch_size, cache=cache)
    assert codes.dtype == torch.float32 and not codes.requires_grad
    torch.testing.assert_close(codes, wanted(images), atol=1e-5, rtol=0)


def test_a_second_call_encodes_nothing(images: ImageSet, own_cache: Path) -> None:
    first = encode_images(Counting(images), images, batch_size=16)
    again = Counting(images)
    assert torch.equal(encode_images(again, images, batch_size=16), first)
    assert again.num_encoded == 0 and len(kept(own_cache, ".f32")) == 1 and not kept(own_cache, ".part")


def test_other_images_have_other_codes(images: ImageSet, own_cache: Path) -> None:
    codec = Counting(images)
    encode_images(codec, images)
    other = images.select(torch.arange(49, -1, -1))
    torch.testing.assert_close(encode_images(codec, other), wanted(images).flip(0), atol=1e-5, rtol=0)
    assert len(kept(own_cache, ".f32")) == 2


def test_an_interrupted_call_is_continued(images: ImageSet, own_cache: Path) -> None:
    progress = Recording()
    with pytest.raises(Interrupted):
        encode_images(Counting(images, stop_at=24), images, batch_size=8, progress=progress)
    assert (progress.done, progress.total, progress.finished) == (24, 50, 1)
    assert not kept(own_cache, ".f32") and len(kept(own_cache, ".part")) == 1
    second = Counting(images)
    codes = encode_images(second, images, batch_size=8, progress=progress)
    assert second.num_encoded == 26 and (progress.done, progress.finished) == (50, 2)
    torch.testing.assert_close(codes, wanted(images), atol=1e-5, rtol=0)
    assert len(kept(own_cache, ".f32")) == 1 and not kept(own_cache, ".part")


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("cache", [True, False])
def test_a_request_to_stop_ends_it_after_a_batch(images: ImageSet, own_cache: Path, cache: bool, within: bool) -> None:
    """Also within longer work that catches such requests itself: encoding a large set takes an hour."""

    class Stopping(Recording):
        def advance(self, count: int = 1, **figures: float) -> None:
            super().advance(count)
            os.kill(os.getpid(), signal.SIGTERM if within else signal.SIGINT)

    progress, codec = Stopping(), Counting(images)
    with stop_requested() if within else nullcontext(), pytest.raises(KeyboardInterrupt):
        encode_images(codec, images, batch_size=8, cache=cache, progress=progress)
    assert (codec.num_encoded, progress.done, progress.finished) == (8, 8, 1)
    second = Counting(images)
    torch.testing.assert_close(
        encode_images(second, images, batch_size=8, cache=cache), wanted(images), atol=1e-5, rtol=0
    )
    assert second.num_encoded == (42 if cache else 50)


@pytest.mark.parametrize("cut", [1, 5, 48, 49])
def test_a_kill_in_the_middle_of_a_write_costs_one_item(images: ImageSet, own_cache: Path, cut: int) -> None:
    with pytest.raises(Interrupted):
        encode_images(Counting(images, stop_at=24), images, batch_size=8)
    part = kept(own_cache, ".part")[0]
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - cut)
    second = Counting(images)
    torch.testing.assert_close(encode_images(second, images, batch_size=8), wanted(images), atol=1e-5, rtol=0)
    assert second.num_encoded == (27 if cut <= 48 else 28)


def test_a_disk_that_fills_leaves_nothing_that_looks_whole(
    images: ImageSet, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(encoding.os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device.*ATTAR_CACHE"):
            encode_images(Counting(images), images, batch_size=8)
        assert not kept(own_cache, ".f32")
    torch.testing.assert_close(encode_images(Counting(images), images), wanted(images), atol=1e-5, rtol=0)


def test_a_cache_that_cannot_be_written_says_so(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="without the cache"):
        encode_images(Counting(images), images)
    assert len(encode_images(Counting(images), images, cache=False)) == 50


def test_files_of_another_length_are_made_anew(images: ImageSet, own_cache: Path) -> None:
    codes = encode_images(Counting(images), images)
    final = kept(own_cache, ".f32")[0]
    for content in (final.read_bytes()[:-4], final.read_bytes() + b"1234"):
        final.write_bytes(content)
        final.with_suffix(".part").write_bytes(content * 2)
        assert torch.equal(encode_images(Counting(images), images), codes)
        assert final.stat().st_size == codes.numel() * 4


def test_large_codes_are_memory_mapped_and_private(
    images: ImageSet, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MEMORY_LIMIT_BYTES", 100)
    codes = encode_images(Counting(images), images)
    before = kept(own_cache, ".f32")[0].read_bytes()
    codes.zero_()
    assert kept(own_cache, ".f32")[0].read_bytes() == before
    assert torch.equal(encode_images(Counting(images), images), wanted(images))


def test_cheap_codes_are_kept_only_when_memory_would_not_do(
    images: ImageSet, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = fit_codec(PcaConfig(), images)
    encode_images(codec, images)
    assert codec.cheap and not kept(own_cache, ".f32")
    monkeypatch.setattr(encoding, "MEMORY_LIMIT_BYTES", 100)
    encode_images(codec, images)
    assert len(kept(own_cache, ".f32")) == 1


def test_codes_that_are_not_finite_are_refused(images: ImageSet, own_cache: Path) -> None:
    codec = Counting(images)
    codec.mean[:] = float("inf")
    for cache in (True, False):
        with pytest.raises(InputError, match="not finite"):
            encode_images(codec, images, cache=cache)
    assert not kept(own_cache, ".f32")


def test_what_does_not_fit_is_refused(images: ImageSet) -> None:
    codec = Counting(images)
    larger = ImageSet(torch.zeros(2, 3, 8, 12, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(InputError, match=r"\(3, 8, 12\)"):
        encode_images(codec, larger)
    with pytest.raises(InputError, match="at least 1"):
        encode_images(codec, images, batch_size=0)


def test_default_batches_shrink_with_the_picture_that_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    large = ImageSet(torch.zeros(40, 3, 128, 128, dtype=torch.uint8), torch.arange(40) % 2, ("a", "b"))
    sizes = []

    def stop(size: int) -> None:
        sizes.append(size)
        raise Interrupted

    for factor in (2, 4):
        codec = fit_codec(ResampleConfig(factor=factor, codec=PcaConfig()), large)
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(codec, "encode", lambda batch: stop(len(batch)))
            encode_images(codec, large, cache=False)
    assert sizes == [16, 4]


def test_no_images_have_no_codes(images: ImageSet) -> None:
    codes = encode_images(Counting(images), images.select(torch.arange(0)))
    assert codes.shape == (0, 3, 2, 2)
