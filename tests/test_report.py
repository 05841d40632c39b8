"""Contact sheets and plots: what is in the picture, what is refused, and that nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.evaluation.plots import Point, bytes_text, plot_accuracy
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.report.contact_sheet import _font, show, wrap
from attar.sets.distilled import DistilledSet

NAMES = (
    "zero",
    "one",
    "two",
    "three",
    "a rather long name for four",
    "five",
    "sulphur-crested six",
    "7",
    "acht",
    "нine",
)


@pytest.fixture(scope="module")
def real() -> ImageSet:
    train = load_images("digits").train
    return ImageSet(train.images, train.labels, NAMES)


@pytest.fixture(scope="module")
def small(real: ImageSet) -> DistilledSet:
    pixels = fit_codec(PixelsConfig(), real)
    indices = torch.cat([members[:3] for members in real.class_indices])
    codes = pixels.encode(real.images[indices].float() / 255)
    return DistilledSet.build(
        Codes(pixels, codes, real.labels[indices], "float32"),
        pixels,
        classes=NAMES,
        recipe={"name": "random"},
        data=("digits", real),
        initial=("random", indices.tolist()),
    )


def contains(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the picture has this tile somewhere, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, tile.shape)
    return bool((windows == tile).all(axis=(-1, -2)).any())


def test_every_item_is_in_the_sheet_unsmoothed(small: DistilledSet, tmp_path: Path) -> None:
    path = show(small, tmp_path / "sheet.png", scale=2)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        sheet = np.asarray(picture)[:, :, 0]
    for item in (0, 14, 29):
        tile = (small.images([item])[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        assert contains(sheet, tile.repeat(2, 0).repeat(2, 1))


def test_number_of_items_scale_and_real_images_change_the_size(
    small: DistilledSet, real: ImageSet, tmp_path: Path
) -> None:
    def size(name: str, **options: object) -> tuple[int, int]:
        with Image.open(show(small, tmp_path / f"{name}.png", **options)) as picture:  # type: ignore[arg-type]
            return picture.size

    whole = size("whole")
    assert whole[0] - size("two", per_class=2)[0] == 8 * 9 + 3  # one column of nine screen pixels a pixel, and its gap
    assert size("beside", real=real)[0] > whole[0] + 3 * 72
    assert size("large", scale=16)[1] > size("little", scale=4)[1]
    assert size("quarter", scale=0.5)[0] < whole[0]


def test_many_classes_stand_in_blocks(tmp_path: Path) -> None:
    images = torch.arange(120, dtype=torch.uint8)[:, None, None, None].expand(120, 3, 32, 32).contiguous()
    many = ImageSet(images, torch.arange(120), tuple(f"class number {number}" for number in range(120)))
    pixels = fit_codec(PixelsConfig(), many)
    codes = pixels.encode(images.float() / 255)
    indices = list(range(120))
    built = DistilledSet.build(
        Codes(pixels, codes, many.labels), pixels, classes=many.classes, recipe={"name": "random"},
        data=("many", many), initial=("random", indices),
    )  # fmt: skip
    with Image.open(show(built, tmp_path / "many.png")) as picture:
        assert 0.7 < picture.width / picture.height < 2.5


@pytest.mark.parametrize(
    "text", [*NAMES, "tailed frog, bell toad, ribbed toad, Ascaphus trui", "x" * 300, "a_b-c d" * 20]
)
@pytest.mark.parametrize("num_lines", [1, 3])
def test_names_fit_their_column(text: str, num_lines: int) -> None:
    font = _font(13)
    lines = wrap(text, font, 120, num_lines)
    assert 1 <= len(lines) <= num_lines
    assert all(0 < font.getlength(line) <= 120 for line in lines)
    if font.getlength(text) <= 120:
        assert lines == [text]
    assert lines[0][:3] == text[:3] and lines[-1][-1] == text[-1]


def test_sheets_refuse(small: DistilledSet, real: ImageSet, tmp_path: Path) -> None:
    existing = tmp_path / "existing.png"
    existing.write_text("mine")
    for message, options in (("exists", {}), ("at least 1", {"per_class": 0}), ("whole number", {"scale": 1.5})):
        with pytest.raises(InputError, match=message):
            show(small, existing, overwrite=bool(options), **options)
    with pytest.raises(InputError, match="do not fit the set"):
        show(small, existing, overwrite=True, real=real.with_classes([0, 1]))
    with pytest.raises(InputError, match="a smaller scale"):
        show(small, existing, overwrite=True, scale=900)
    with pytest.raises(InputError, match="is a PNG"):
        show(small, tmp_path / "sheet.jpg")
    assert existing.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["existing.png"]
    show(small, existing, overwrite=True)
    assert existing.read_bytes().startswith(b"\x89PNG")


def test_accuracy_plot(tmp_path: Path) -> None:
    points = [Point("mine", 5000, 80.0, 1.0), Point("yours", 9000, 70.0, 1.0), Point("random", 640, 60.0, None)]
    written = plot_accuracy(points, tmp_path / "plot.png", title="digits", size_label="bytes", chance=10)
    first = written.read_bytes()
    plot_accuracy(points, written, title="digits", size_label="bytes", chance=10, overwrite=True)
    assert written.read_bytes() == first
    with Image.open(written) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # both series are there, each in its colour
    with pytest.raises(InputError, match="every row is absent"):
        plot_accuracy([], tmp_path / "none.png", title="", size_label="")


def test_bytes_for_people() -> None:
    assert [bytes_text(count) for count in (7, 999, 1000, 123_456, 5e6, 2e9)] == [
        "7 B", "999 B", "1 kB", "123 kB", "5 MB", "2 GB",
    ]  # fmt: skip
