"""Which regions there are, and how their logits are stored."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attar.base.config import parse_config
from attar.base.errors import InputError
from attar.data.augmentation import DsaConfig
from attar.data.resizing import Grid, expand, tile_boxes
from attar.methods.labels.region_logits import (
    check_region_tensors,
    epoch_bytes,
    fitted,
    read_region_logits,
    region_table,
    store_logits,
)
from attar.methods.labels.regions import RegionLabels, apply_regions, draw_regions
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from reference.regions import box, regions
from small_regions import DSA, canvases_of, logits_of, settings
from small_sets import digit_images

# Which regions


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("grid", "tiles"), [(1, 0.0), (2, 0.6), (3, 1.0)])
def test_regions_are_those_of_the_literal_oracle(grid: int, tiles: float, mixed: bool) -> None:
    images = canvases_of(5)
    config = RegionLabels(tile_probability=tiles, scale=(0.1, 0.9), mix="cutmix" if mixed else "none")
    found = apply_regions(images, draw_regions(config, 4, 5, (2, 7, 9), grid, seed=11))
    expected = regions(images, 11, 4, grid, (0.1, 0.9), tiles, 0.5, mixed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(found, images, atol=0.01)


def test_a_canvas_is_cropped_alike_however_many_there_are() -> None:
    config = RegionLabels(augmentation=DsaConfig(), mix="cutmix", tile_probability=0.5)
    few, many = (draw_regions(config, 2, count, (3, 8, 8), 2, 5) for count in (3, 50))
    assert torch.equal(few.boxes, many.boxes[:3]) and torch.equal(few.flipped, many.flipped[:3])
    assert torch.equal(few.operations, many.operations[:3])  # type: ignore[arg-type, index]
    assert torch.equal(few.pasted, many.pasted[:3])  # type: ignore[arg-type, index]
    assert few.augmentation is not None and many.augmentation is not None
    assert few.augmentation.operations == many.augmentation.operations
    for name, value in few.augmentation.values.items():
        assert torch.equal(value, many.augmentation.values[name][:3])
    assert (many.partners != torch.arange(50)).all() and 0 <= int(many.partners.min()) <= int(many.partners.max()) < 50  # type: ignore[union-attr]
    plain = draw_regions(RegionLabels(tile_probability=0.5), 2, 50, (3, 8, 8), 2, 5)
    assert torch.equal(plain.boxes, many.boxes), "mixing and augmentation move no crop"


def test_what_a_box_may_be() -> None:
    config = RegionLabels(scale=(0.2, 0.7))
    boxes = draw_regions(config, 0, 4000, (3, 40, 60)).boxes
    top, left, height, width = boxes.unbind(1)
    area, ratio = height * width, width * 60 / (height * 40)
    assert area.min() >= 0.2 - 1e-9 and area.max() <= 0.7 + 1e-9 and abs(area.mean() - 0.45) < 0.01
    assert ratio.min() >= 0.75 - 1e-9 and ratio.max() <= 4 / 3 + 1e-9 and ratio.min() < 0.8 and ratio.max() > 1.25
    assert boxes.min() >= 0 and (top + height).max() <= 1 + 1e-12 and (left + width).max() <= 1 + 1e-12
    flips = draw_regions(RegionLabels(flip=0.25), 0, 4000, (3, 40, 60)).flipped.float().mean()
    assert abs(flips - 0.25) < 0.03
    every = draw_regions(RegionLabels(scale=(1.0, 1.0)), 0, 10, (3, 40, 60)).boxes
    torch.testing.assert_close(every, torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float64).expand(10, 4))
    small = draw_regions(RegionLabels(scale=(1e-4, 1e-4), tile_probability=1.0), 0, 50, (3, 5, 5), 5).boxes
    assert not apply_regions(canvases_of(50, 5, 5), draw_regions(config, 0, 50, (2, 5, 5), 5)).isnan().any()
    assert (small[:, 2:] * 5 - 1).abs().max() < 1e-9, "a tile of one pixel is taken whole"


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_whole_tile_is_the_expanded_tile(size: tuple[int, int]) -> None:
    images = canvases_of(30, *size)
    drawn = draw_regions(RegionLabels(scale=(1.0, 1.0), tile_probability=1.0, flip=0.0), 0, 30, (2, *size), 2, 1)
    corners = (drawn.boxes[:, :2] * torch.tensor(size)).round().long().tolist()
    boxes = tile_boxes(*size, Grid(2))[:, :2].tolist()
    tiles = torch.tensor([4 * place + boxes.index(corner) for place, corner in enumerate(corners)])
    torch.testing.assert_close(apply_regions(images, drawn), expand(images, tiles, Grid(2)), rtol=0, atol=1e-9)
    assert len(set((tiles % 4).tolist())) == 4


def test_epochs_repeat_and_differ_and_seeds_do() -> None:
    config = RegionLabels(epochs=3)
    first, other, again = (draw_regions(config, epoch, 6, (1, 8, 8)).boxes for epoch in (1, 2, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, draw_regions(config, 1, 6, (1, 8, 8), seed=1).boxes)
    assert box(0, 1, 2, (8, 8), 1, (0.08, 1.0), 0.0)[0] / 8 == pytest.approx(float(first[2, 0]), abs=1e-12)


def test_dsa_of_regions_needs_network_inputs() -> None:
    drawn = draw_regions(RegionLabels(augmentation=DSA), 0, 4, (2, 7, 9))
    with pytest.raises(ValueError, match="give the preprocess"):
        apply_regions(canvases_of(4), drawn)


def test_dsa_in_mode_single_takes_an_operation_for_each_region() -> None:
    codec = fit_codec(PixelsConfig(), digit_images())
    images = digit_images().images[:200].float() / 255
    config = RegionLabels(scale=(1.0, 1.0), flip=0.0, augmentation=DsaConfig(strategy="flip_color", flip=1.0))
    drawn = draw_regions(config, 0, 200, (1, 8, 8))
    assert drawn.operations is not None
    found = apply_regions(images, drawn, codec)
    flipped = (found - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert torch.equal(flipped, drawn.operations == 0) and 60 < int(flipped.sum()) < 140
    both = RegionLabels(scale=(1.0, 1.0), augmentation=DsaConfig(strategy="flip", mode="multiple", flip=1.0), flip=0.0)
    found = apply_regions(images, draw_regions(both, 0, 200, (1, 8, 8)), codec)
    torch.testing.assert_close(found, images.flip(3), rtol=0, atol=1e-5)


def test_settings_that_cannot_work_are_refused() -> None:
    for changes, message in (
        ({"scale": (0.5, 0.2)}, "scale is"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"top_k": 3}, "top_k has no effect"),
        ({"storage": "online", "label_bytes": 10}, "label_bytes has no effect"),
    ):
        with pytest.raises(ValueError, match=message):
            RegionLabels(**changes)  # type: ignore[arg-type]
    text = RegionLabels(storage="top-k", top_k=2, augmentation=DSA).model_dump_json()
    assert parse_config(RegionLabels, text, "labels") == RegionLabels(storage="top-k", top_k=2, augmentation=DSA)


# Storage


def stored(logits: Tensor, config: RegionLabels) -> dict[str, Tensor]:
    return {name: tensor.unsqueeze(0) for name, tensor in store_logits(logits, config).items()}


@pytest.mark.parametrize("spread", [1e-6, 3.0, 1e3])
def test_logits_come_back_as_near_as_their_storage_allows(spread: float) -> None:
    logits = logits_of(40, 10, spread) + 2 * spread
    half = read_region_logits(stored(logits, settings()), settings(epochs=1), 5, 10)
    assert (half - logits).abs().max() <= 2.0**-11 * logits.abs().max() + 2.0**-25
    config = settings(storage="int8", epochs=1)
    tensors = stored(logits, config)
    error = (read_region_logits(tensors, config, 0, 10) - logits).abs()
    assert (error <= tensors["scale"][0].float().unsqueeze(1) * 0.5001 + 1e-6 * spread).all()
    check_region_tensors(tensors, config, 40, 10)


@pytest.mark.parametrize(("num_classes", "dtype"), [(10, torch.int8), (128, torch.int8), (129, torch.int16)])
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(num_classes: int, dtype: torch.dtype) -> None:
    config = settings(storage="top-k", epochs=1, top_k=4)
    logits = logits_of(30, num_classes)
    tensors = stored(logits, config)
    assert tensors["classes"].dtype == dtype
    found = read_region_logits(tensors, config, 0, num_classes)
    top = logits.topk(4, 1)
    assert torch.equal(found.gather(1, top.indices), top.values.half().float())
    torch.testing.assert_close(found.logsumexp(1), logits.logsumexp(1), rtol=0, atol=4e-3)
    torch.testing.assert_close(
        found.softmax(1).gather(1, top.indices), logits.softmax(1).gather(1, top.indices), rtol=8e-3, atol=0
    )
    others = found.scatter(1, top.indices, -math.inf)
    assert all(len(set(row[row.isfinite()].tolist())) == 1 for row in others), "the others are alike"


def test_logits_beyond_float16_are_cut() -> None:
    logits = torch.tensor([[1e6, -1e6, 0.0], [7e4, 7e4, 7e4]])
    for storage in ("float16", "int8", "top-k"):
        config = settings(storage=storage, epochs=1, **({"top_k": 1} if storage == "top-k" else {}))
        tensors = stored(logits, config)
        check_region_tensors(tensors, config, 2, 3)
        assert read_region_logits(tensors, config, 0, 3).isfinite().all()


def test_codebooks_count_once() -> None:
    config = RegionLabels(storage="codebook", code_bytes=18, epochs=50)
    shared = 2 * (100 + 100 * 108 + 18 * 256 * 6)
    assert epoch_bytes(config, 1000, 100) == 18_000
    assert sum(math.prod(s) * (1 if d == "I8" else 2) for d, s in region_table(config, 1000, 100).values()) == (
        50 * 18_000 + shared
    )
    limited = config.model_copy(update={"label_bytes": shared + 20 * 18_000})
    assert fitted(limited, 1000, 100).epochs == 20
    assert fitted(limited, [500, 500], 100).epochs == 20 - math.ceil(shared / 18_000), "a codebook for each shard"
    with pytest.raises(InputError, match="code_bytes is 16 and there are 10 classes; give at most 10"):
        region_table(RegionLabels(storage="codebook"), 1, 10)


def test_smaller_storage_is_smaller_and_limits_lower_the_epochs() -> None:
    full = epoch_bytes(settings(), 50, 200)
    assert full == 50 * 200 * 2
    assert epoch_bytes(settings(storage="top-k"), 50, 200) == 50 * (5 * (2 + 2) + 2) <= full / 10
    assert epoch_bytes(settings(storage="int8"), 50, 200) == 50 * (200 + 4)
    tenth = 300 * full // 10
    for storage, epochs in (("float16", 30), ("int8", 58), ("top-k", 300)):
        asked = RegionLabels(storage=storage, label_bytes=tenth)  # type: ignore[arg-type]
        config = fitted(asked, 50, 200)
        assert config.epochs == epochs and config.label_bytes is None
        assert epoch_bytes(config, 50, 200) * epochs <= tenth
    assert fitted(RegionLabels(label_bytes=10**9), [50, 50], 200).epochs == 300
    assert fitted(RegionLabels(label_bytes=tenth), [50, 50], 200).epochs == 15
    with pytest.raises(InputError, match=f"labels of one epoch take {full}"):
        fitted(RegionLabels(label_bytes=full - 1), 50, 200)
    with pytest.raises(InputError, match="top_k is 5 and there are 5 classes"):
        region_table(RegionLabels(storage="top-k"), 1, 5)
    with pytest.raises(InputError, match="logits an epoch"):
        region_table(RegionLabels(), 2**20, 2**20)
