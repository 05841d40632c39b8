"""Tiles of canvases: bookkeeping, interpolation, gradients, codecs, files."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.tiling import literal_boxes, literal_expand, literal_squeeze
from torch import Tensor

from attar.base.config import parse_config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.data.resizing import Grid, crop_and_resize, expand, squeeze, tile_boxes
from attar.data.sources import load_images
from attar.methods.labels import class_major_labels
from attar.methods.parameterizations.codes import Codes, Storage
from attar.methods.parameterizations.mosaic import Mosaic, MosaicConfig
from attar.methods.parameterizations.registry import check_payload, payload_table, restore_parameterization
from attar.models.codecs.codec import Codec
from attar.models.codecs.dct import DctConfig
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.codecs.resample import ResampleConfig

UNEVEN = [(3, 20, 20), (5, 23, 31), (2, 7, 5), (4, 10, 6), (5, 8, 8), (2, 8, 8)]
CODECS = {
    "pixels": PixelsConfig(),
    "pca": PcaConfig(factor=2, channels=3),
    "resample": ResampleConfig(factor=2, codec=DctConfig(factor=4, channels=6)),
}


def _images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=generator(0, "images", *shape), dtype=torch.float64)


@cache
def _digits() -> ImageSet:
    return load_images("digits").train


def _mosaic(codec: Codec, grid: int = 2, per_class: int = 1, storage: Storage = "float32") -> Mosaic:
    """Canvases of the first digits of each class."""
    train, tiles = _digits(), grid * grid * per_class
    real = torch.cat([train.images[members[:tiles]] for members in train.class_indices]).float() / 255
    labels = class_major_labels(train.num_classes, tiles)
    preprocess = codec if isinstance(codec, Pixels) else fit_codec(PixelsConfig(), train)
    codes = codec.encode(squeeze(real, Grid(grid)))
    return Mosaic(codec, codes, labels, storage, preprocess=preprocess, grid=grid)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(5, 60), st.integers(5, 60))
def test_tiles_cover_every_pixel_once_and_differ_by_one(side: int, height: int, width: int) -> None:
    boxes = tile_boxes(height, width, Grid(side))
    assert boxes.tolist() == [list(box) for box in literal_boxes(height, width, side)]
    covered = torch.zeros(height, width, dtype=torch.int64)
    for top, left, bottom, right in boxes.tolist():
        covered[top:bottom, left:right] += 1
    assert bool((covered == 1).all())
    for sizes in (boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]):
        assert int(sizes.max() - sizes.min()) <= 1


@pytest.mark.parametrize(("side", "height", "width"), UNEVEN)
def test_squeeze_and_expand_are_the_literal_ones(side: int, height: int, width: int) -> None:
    small = (height, width) == (8, 8)
    images = _images(2 * side * side if small else side * side, 1, height, width)
    canvases = squeeze(images, Grid(side))
    assert (canvases - literal_squeeze(images, side)).abs().max() < 1e-12
    tiles = torch.tensor([len(images) - 1, 0, side, 0])
    seen = expand(canvases, tiles, Grid(side))
    assert seen.shape == (4, 1, height, width)
    for image, tile in zip(seen, tiles.tolist(), strict=True):
        canvas, place = divmod(tile, side * side)
        assert (image - literal_expand(canvases[canvas], place, side)).abs().max() < 1e-12


@pytest.mark.parametrize(("side", "height", "width"), UNEVEN)
def test_a_tile_depends_on_its_own_pixels_alone(side: int, height: int, width: int) -> None:
    grid = Grid(side)
    for place, (top, left, bottom, right) in enumerate(tile_boxes(height, width, grid).tolist()):
        canvases = torch.full((1, 2, height, width), 1e6)
        canvases[0, :, top:bottom, left:right] = 0.25 + place
        seen = expand(canvases, torch.tensor([place]), grid)
        torch.testing.assert_close(seen, torch.full_like(seen, 0.25 + place))


def test_a_grid_of_one_is_the_identity_bit_for_bit() -> None:
    images = _images(5, 3, 28, 33).float() * 1e3
    assert torch.equal(squeeze(images, Grid(1)), images)
    assert torch.equal(expand(images, torch.tensor([4, 0, 0]), Grid(1)), images[[4, 0, 0]])


@pytest.mark.parametrize(("side", "size"), [(1, 3), (2, 4), (2, 5), (3, 3)])
def test_gradients_of_expanding(side: int, size: int) -> None:
    canvases = _images(2, 1, size, size + 1).requires_grad_()
    tiles = torch.tensor([0, 2 * side * side - 1, 0])
    assert torch.autograd.gradcheck(lambda given: expand(given, tiles, Grid(side)), canvases)
    images = _images(side * side, 1, size, size + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: squeeze(given, Grid(side)), images)


def test_neighbours_in_the_batch_do_not_matter() -> None:
    canvases = _images(3, 3, 14, 11)
    everything = expand(canvases, torch.arange(27), Grid(3))
    alone = torch.cat([expand(canvases[t // 9 : t // 9 + 1], torch.tensor([t % 9]), Grid(3)) for t in range(27)])
    assert (everything - alone).abs().max() < 1e-14
    assert expand(canvases, torch.arange(0), Grid(3)).shape == (0, 3, 14, 11)


def test_resizing_is_the_interpolation_of_torch() -> None:
    images = _images(4, 3, 13, 17)
    boxes = torch.tensor([[0, 0, 13, 17], [2, 3, 5, 4], [12, 16, 1, 1], [1, 0, 12, 3]]).double()
    ours = crop_and_resize(images, boxes / torch.tensor([13, 17, 13, 17]), (6, 20))
    for image, (top, left, height, width), own in zip(images, boxes.long().tolist(), ours, strict=True):
        part = image[None, :, top : top + height, left : left + width]
        theirs = torch.nn.functional.interpolate(part, (6, 20), mode="bilinear", antialias=True)
        assert (theirs[0] - own).abs().max() < 1e-12


def test_a_grid_that_cannot_be_is_refused_with_the_mend() -> None:
    for side in (0, 6):
        with pytest.raises(InputError, match="give 1 to 5"):
            Grid(side)
    with pytest.raises(InputError, match="4 pixels cannot hold 5 tiles side by side; take a grid of at most 4"):
        tile_boxes(9, 4, Grid(5))
    with pytest.raises(ValueError, match="5 images do not fill canvases of 4 tiles"):
        squeeze(_images(5, 1, 4, 4), Grid(2))
    with pytest.raises(InputError, match="less than or equal to 5"):
        parse_config(MosaicConfig, '{"grid": 6}', "parameterization")


@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(CODECS))
def test_items_are_the_tiles_of_decoded_canvases(name: str, grid: int) -> None:
    codec = fit_codec(CODECS[name], _digits())  # type: ignore[arg-type]
    items = _mosaic(codec, grid, per_class=2)
    assert len(items) == 20 * grid * grid and items.num_canvases == 20
    tiles = torch.tensor([3 * grid * grid, len(items) - 1, 0, 3 * grid * grid])
    canvases = items.canvases(torch.arange(20))
    torch.testing.assert_close(canvases, codec.decode(items.codes.detach()))
    seen = items.images(tiles)
    for image, tile in zip(seen, tiles.tolist(), strict=True):
        canvas, place = divmod(tile, grid * grid)
        assert (image - literal_expand(canvases[canvas], place, grid)).abs().max() < 1e-5
    torch.testing.assert_close(items(tiles), items.preprocess.encode(seen))
    assert seen.requires_grad is False and canvases.requires_grad is False


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_gradient_reaches_the_canvas_of_a_tile_alone(name: str) -> None:
    items = _mosaic(fit_codec(CODECS[name], _digits()))  # type: ignore[arg-type]
    items(torch.tensor([5, 30])).square().sum().backward()
    assert items.codes.grad is not None
    assert items.codes.grad.flatten(1).norm(dim=1).nonzero()[:, 0].tolist() == [1, 7]


def test_codes_are_their_own_canvases() -> None:
    codec = fit_codec(CODECS["pca"], _digits())  # type: ignore[arg-type]
    items = Codes(codec, torch.rand(4, *codec.code_shape), torch.arange(4))
    assert items.num_canvases == 4
    assert torch.equal(items.canvases(torch.tensor([2])), items.images(torch.tensor([2])))


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", sorted(CODECS))
def test_payload_and_spec_rebuild_a_mosaic(name: str, storage: Storage) -> None:
    codec = fit_codec(CODECS[name], _digits())  # type: ignore[arg-type]
    items = _mosaic(codec, 3, storage=storage)
    payload, spec = items.payload(), items.spec()
    assert spec == {"kind": "mosaic", "storage": storage, "grid": 3}
    assert payload["codes"].shape == (10, *codec.code_shape) and payload["labels"].dtype == torch.int32
    table = payload_table(spec, 90, codec.code_shape, 10)
    assert {key: shape for key, (_, shape) in table.items()} == {key: tuple(t.shape) for key, t in payload.items()}
    again = restore_parameterization(codec, payload, spec, items.preprocess)
    assert isinstance(again, Mosaic) and again.grid == items.grid
    assert torch.equal(again.labels, items.labels)
    assert all(torch.equal(tensor, payload[key]) for key, tensor in again.payload().items())
    worst = (again.images(torch.arange(90)) - items.images(torch.arange(90))).abs().max()
    assert worst <= {"float32": 1e-6, "float16": 2e-2, "int8": 0.2}[storage]


def test_a_mosaic_keeps_soft_labels_of_its_tiles() -> None:
    hard = _mosaic(fit_codec(CODECS["pca"], _digits()))  # type: ignore[arg-type]
    logits = torch.randn(40, 10, generator=generator(0, "logits"))
    items = Mosaic(hard.codec, hard.codes, hard.labels, "int8", logits, "float32", preprocess=hard.preprocess, grid=2)
    again = restore_parameterization(items.codec, items.payload(), items.spec(), items.preprocess)
    assert again.soft_labels is not None and torch.equal(again.soft_labels, logits)


def test_a_damaged_mosaic_is_refused() -> None:
    items = _mosaic(fit_codec(CODECS["pca"], _digits()))  # type: ignore[arg-type]
    payload, spec = items.payload(), items.spec()
    code_shape = items.codec.code_shape
    with pytest.raises(InputError, match="39 items do not fill canvases of 4 tiles"):
        check_payload({**payload, "labels": payload["labels"][:39]}, spec, code_shape, 10)
    with pytest.raises(InputError, match=r"'codes' is .*\(10, .* and must be .*\(9, "):
        check_payload({**payload, "labels": payload["labels"][:36]}, spec, code_shape, 10)
    for grid in (0, 6, 2.5, "2"):
        with pytest.raises(InputError, match="parameterization 'mosaic': grid"):
            check_payload(payload, {**spec, "grid": grid}, code_shape, 10)
    with pytest.raises(InputError, match="labels run from 0 to 9"):
        check_payload(payload, spec, code_shape, 9)
    with pytest.raises(ValueError, match="give preprocess"):
        restore_parameterization(items.codec, payload, spec)


def test_settings_survive_the_text_of_a_manifest() -> None:
    config = MosaicConfig(grid=3, storage="float16")
    assert parse_config(MosaicConfig, canonical_json(config.model_dump(mode="json")), "x") == config
    assert MosaicConfig().grid == 2 and MosaicConfig().storage == "int8"
