"""FreD: the DCT, masks by variance, items under them, the file, and whole runs on the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.frequencies import (
    Frequencies,
    cosines,
    from_frequencies,
    to_frequencies,
    varying_frequencies,
)
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from attar.sets.merging import merge
from small_sets import digit_images

SMALL: dict[str, Any] = {
    "steps": 3,
    "parameterization.num_frequencies": 10,
    "objective.network.width": 4,
    "objective.network.depth": 1,
    "objective.real_batch_size": 4,
}


def small_set(images: ImageSet | None = None, **arguments: Any) -> DistilledSet:
    settings = {**SMALL, **arguments.pop("settings", {})}
    return distill(digit_images() if images is None else images, "fred-dc", "2ipc", settings=settings, **arguments)


def test_the_transform_is_scipys_and_has_an_inverse() -> None:
    codes = torch.randn(3, 2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectra = to_frequencies(codes)
    np.testing.assert_allclose(spectra.numpy(), scipy.fft.dctn(codes.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(from_frequencies(spectra), codes, rtol=0, atol=1e-12)
    torch.testing.assert_close(cosines(7) @ cosines(7).T, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_mask_takes_the_frequencies_that_vary_most() -> None:
    """Frequencies 5, 1 and 11 vary by 3, 2 and 1; frequency 0 is large and the same everywhere."""
    draw = torch.Generator().manual_seed(1)
    spectra = torch.zeros(200, 3, 4, 4, dtype=torch.float64)
    spectra[:, :, 0, 0] = 100
    for place, spread in ((5, 3.0), (1, 2.0), (11, 1.0)):
        spectra.flatten(2)[:, :, place] = spread * torch.randn(200, 1, dtype=torch.float64, generator=draw)
    assert varying_frequencies(from_frequencies(spectra), 2).tolist() == [1, 5]
    assert varying_frequencies(from_frequencies(spectra), 3).tolist() == [1, 5, 11]


def test_items_begin_as_their_images_under_the_mask_of_their_class() -> None:
    images = digit_images()
    made = small_set(settings={"objective": {"kind": "none"}, "steps": 0, "optimizer": None})
    (items,) = made.parameterizations()
    assert isinstance(items, Frequencies) and len(items) == 10 * 2 * 6  # 64 values hold 6 items of 10
    codec = fit_codec(PixelsConfig(), images)
    start = codec.encode(images.images[list(made.manifest.initialization.indices)].float() / 255)
    for label in (0, 9):
        codes = codec.encode(images.images[images.class_indices[label]].float() / 255)
        expected = torch.from_numpy(scipy.fft.dctn(codes.numpy(), axes=(2, 3), norm="ortho")).mean(1).flatten(1)
        mask = expected.double().var(0).topk(10).indices.sort().values
        assert items.masks[label].tolist() == mask.tolist()
        item = int((made.labels == label).nonzero()[3])
        spectrum = to_frequencies(start[item : item + 1]).flatten()
        kept = torch.zeros(64).scatter(0, mask, spectrum[mask])
        spectrum = to_frequencies(items.latents(torch.tensor([item]))).flatten()
        torch.testing.assert_close(spectrum, kept, atol=1e-4, rtol=0)


def test_gradients_stay_on_the_mask_and_are_those_of_the_code() -> None:
    made = small_set()
    (items,) = made.parameterizations()
    assert isinstance(items, Frequencies)
    items.requires_grad_(True)
    codes = items(torch.arange(len(items)))
    direction = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
    (codes * direction).sum().backward()
    expected = to_frequencies(direction).flatten(2).gather(2, items.masks[items.rows][:, None])
    torch.testing.assert_close(items.values.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_file_gives_the_same_items_back(storage: str, tmp_path: Path) -> None:
    made = small_set(storage=storage, out=tmp_path / "a.attar.safetensors")
    again = DistilledSet.load(tmp_path / "a.attar.safetensors")
    assert (
        torch.equal(made.images(), again.images())
        and again.manifest.shards[0].parameterization["kind"] == "frequencies"
    )
    assert again.file_bytes == (tmp_path / "a.attar.safetensors").stat().st_size


def test_parts_and_orders_of_classes_keep_their_masks() -> None:
    """Merging renames classes; an item's mask stays its own."""
    names = digit_images().classes
    first, second = (small_set(digit_images().with_classes(part)) for part in (names[5:], names[:5]))
    whole = merge([first, second], order=names)
    for part in (first, second):
        for name in part.classes:
            own = part.images(part.labels.eq(part.classes.index(name)).nonzero()[:, 0])
            kept = whole.images(whole.labels.eq(names.index(name)).nonzero()[:, 0])
            torch.testing.assert_close(own, kept, rtol=0, atol=1e-5)
    made = small_set(subtasks=2)
    assert len(made.manifest.shards) == 2 and made.classes == names


def test_a_budget_in_bytes_is_kept() -> None:
    small = distill(digit_images(), "fred-dc", "12kB", settings=SMALL, storage="int8")
    assert 9_000 < small.file_bytes <= 12_000


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="64 frequencies in a channel and 65 were asked for"):
        small_set(settings={"parameterization.num_frequencies": 65})
    with pytest.raises(InputError, match="valid range"):
        small_set(settings={"optimizer.valid_range": True})


def test_masks_of_a_damaged_file_are_refused() -> None:
    (items,) = small_set().parameterizations()
    payload, spec = items.payload(), items.spec()
    with pytest.raises(InputError, match="beyond 8 x 8"):
        Frequencies.restore(items.codec, payload | {"masks": payload["masks"] + 64}, spec)
    with pytest.raises(InputError, match="10 classes in a row have 9 masks"):
        Frequencies.restore(items.codec, payload | {"masks": payload["masks"][:9]}, spec | {"num_masks": 9})


def test_it_learns() -> None:
    made = small_set(settings={"steps": 30, "optimizer.learning_rate": 0.5})
    start = small_set(settings={"objective": {"kind": "none"}, "steps": 0, "optimizer": None})
    assert float((made.images() - start.images()).abs().max()) > 0.01
    assert bool(made.images().isfinite().all())


def test_the_published_settings() -> None:
    made = recipe("fred-cifar10-ipc1")
    assert made.parameterization.model_dump()["num_frequencies"] == 64 and made.steps == 15_000
    assert made.optimizer is not None and made.optimizer.learning_rate == pytest.approx(1e8 / 4096)
