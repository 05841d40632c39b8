"""What lies between items: codes against a literal reference, which items are meant, pictures, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import attar
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.cli import main
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.methods.labels import class_major_labels
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.decoders import DecoderConfig
from attar.methods.parameterizations.mosaic import Mosaic
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.report.interpolation import corners, images_between, interpolate, item_name
from attar.sets.distilled import DistilledSet
from reference.interpolation import between

NAMES = ("cat", "dog", "dog:1", "frog, tailed", "frog", "tailed", "a", "b", "c", "d")
SMALL = PriorsConfig(decoder=DecoderConfig(width=8, latent_dim=4))


@pytest.fixture(scope="module")
def train() -> ImageSet:
    found = load_images("digits").train
    return ImageSet(found.images, found.labels, NAMES)


def built(train: ImageSet, *parts: Parameterization) -> DistilledSet:
    pixels = fit_codec(PixelsConfig(), train)
    about: dict[str, Any] = {"classes": NAMES, "recipe": {"name": "test"}, "data": ("digits", train)}
    return DistilledSet.build(list(parts), pixels, initial=("noise", []), **about)


def priors(train: ImageSet, seed: int = 0, config: PriorsConfig = SMALL) -> Priors:
    return Priors.initial(config, fit_codec(PixelsConfig(), train), 10, 2, generator(seed, "priors")).eval()


@pytest.fixture(scope="module")
def sampled(train: ImageSet) -> DistilledSet:
    return built(train, priors(train))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=6),
    st.integers(0, 1000),
    st.integers(2, 9),
    st.sampled_from(["linear", "spherical"]),
)
def test_codes_between_are_those_of_the_equation(start: list[float], seed: int, steps: int, kind: Any) -> None:
    first = torch.tensor(start, dtype=torch.float64)
    last = torch.randn(len(start), generator=generator(seed, "last"), dtype=torch.float64)
    cosine = float(first @ last / (first.norm() * last.norm())) if float(first.norm()) > 1e-3 else 1.0
    if kind == "spherical" and abs(cosine) > 0.999:
        return
    found = interpolate(first, last, steps, kind)
    for number in range(steps):
        wanted = between(first.tolist(), last.tolist(), number / (steps - 1), kind)
        assert found[number].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_an_arc_keeps_the_length_and_a_line_does_not() -> None:
    first, last = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert interpolate(first, last, 5, "spherical").norm(dim=1).tolist() == pytest.approx([3.0] * 5)
    assert float(interpolate(first, last, 5)[2].norm()) == pytest.approx(3 / 2**0.5)
    torch.testing.assert_close(interpolate(first, 2 * first, 3, "spherical")[1], 1.5 * first)
    for other in (-first, 0 * first):
        with pytest.raises(InputError, match="no one arc"):
            interpolate(first, other, 3, "spherical")


def test_both_ends_are_the_items_and_the_middle_is_decoded(sampled: DistilledSet) -> None:
    part = sampled.parameterizations()[0]
    assert isinstance(part, Priors)
    items, images = images_between(sampled, ["cat:1", "b"], 5, "linear")
    assert items == [1, 14] and images.shape == (1, 5, 1, 8, 8)
    torch.testing.assert_close(images[0, [0, 4]], sampled.images([1, 14], epoch=None))
    middle = part.decode((part.mean[[1]] + part.mean[[14]]).detach() / 2)
    torch.testing.assert_close(images[0, 2], middle[0])


def test_a_square_has_four_items_in_its_corners(sampled: DistilledSet) -> None:
    items, images = images_between(sampled, "cat,dog:1,a:1,b", 3, "linear")
    assert items == [0, 4, 13, 14], "the class called dog:1 is meant before the second dog"
    means = sampled.images(items, epoch=None)
    torch.testing.assert_close(images[[0, 0, 2, 2], [0, 2, 0, 2]], means)
    part = sampled.parameterizations()[0]
    centre = part.decode(part.latents(torch.tensor(items)).mean(0, keepdim=True))
    torch.testing.assert_close(images[1, 1], centre[0])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cat,dog", ["cat:0", "dog:0"]),
        (" cat : 1 , dog:0 ", ["cat:1", "dog:0"]),
        ("frog, tailed,cat", ["frog, tailed:0", "cat:0"]),
        ("frog, tailed:1,frog,tailed,cat", ["frog, tailed:1", "frog:0", "tailed:0", "cat:0"]),
        (["frog, tailed", "dog:1:1"], ["frog, tailed:0", "dog:1:1"]),
    ],
)
def test_names_may_have_commas_and_colons(sampled: DistilledSet, text: Any, named: list[str]) -> None:
    assert [item_name(sampled, item) for item in corners(sampled, text)] == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,dgo", "did you mean 'dog'"),
        ("cat,dog:2", "class 'dog' has 2 items; count them from 0"),
        ("cat,dog:99999999999999999999", "count them from 0"),
        ("cat", "1 items are named; name two, or four"),
        ("cat,dog,a", "3 items are named"),
        ("cat,cat:0", "share one code"),
        (["cat", "b", "cat", "d"], "share one code"),
        ("frog, tailed,frog, tailed", "can be read in 2 ways"),
    ],
)
def test_items_that_mean_nothing_are_refused(sampled: DistilledSet, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        images_between(sampled, text, 3, "linear")


def test_steps_and_kinds_out_of_range_are_refused(sampled: DistilledSet) -> None:
    for steps in (1, 101):
        with pytest.raises(InputError, match="2 to 100"):
            images_between(sampled, "cat,dog", steps, "linear")
    kind: Any = "spheric"
    with pytest.raises(InputError, match="did you mean 'spherical'"):
        images_between(sampled, "cat,dog", 3, kind)


def test_codes_and_canvases_have_a_between_and_pixels_have_none(train: ImageSet) -> None:
    pixels, pca = (fit_codec(codec_from_text(text), train) for text in ("pixels", "pca:f2c1"))
    labels = class_major_labels(10, 2)
    codes = torch.randn(20, *pca.code_shape, generator=generator(0, "codes"))
    plain = built(train, Codes(pca, codes, labels))
    _, images = images_between(plain, "cat,dog", 3, "linear")
    torch.testing.assert_close(images[0, 1], pca.decode(codes[[0, 2]].mean(0, keepdim=True))[0])
    tiles = built(train, Mosaic(pca, codes, class_major_labels(10, 8), preprocess=pixels))
    _, images = images_between(tiles, "cat:5,dog", 3, "linear")
    torch.testing.assert_close(images[0, 0], pca.decode(codes[[1]])[0])
    with pytest.raises(InputError, match="share one code"):
        images_between(tiles, "cat:0,cat:3", 3, "linear")
    flat = built(train, Codes(pixels, pixels.encode(train.images[:20].float() / 255), labels))
    with pytest.raises(InputError, match="cross-fade"):
        images_between(flat, "cat,dog", 3, "linear")


def test_nothing_lies_between_two_decoders(train: ImageSet) -> None:
    two = built(train, priors(train, 1), priors(train, 2))
    with pytest.raises(InputError, match="decoders of their own"):
        images_between(two, "cat:0,dog:2", 3, "linear")
    assert images_between(two, "cat:2,dog:3", 3, "linear")[0] == [20, 23]


def test_pictures_have_the_mean_beside_its_samples(sampled: DistilledSet, tmp_path: Path) -> None:
    path = attar.show(sampled, tmp_path / "samples.png", samples=3, scale=9)
    with Image.open(path) as picture:
        sheet = np.asarray(picture)[:, :, 0]
    images = [sampled.images(epoch=None), *(sampled.images(epoch=epoch) for epoch in range(3))]
    for item in (0, 7, 19):
        rows = {tuple(_places(sheet, each[item, 0], 9)[:1]) for each in images}
        columns = [_places(sheet, each[item, 0], 9)[1] for each in images]
        assert len(rows) == 1 and columns == sorted(columns) and len(set(columns)) == 4
    with Image.open(attar.show(sampled, tmp_path / "one.png", samples=3, per_class=1, scale=9)) as fewer:
        assert fewer.height < 0.6 * sheet.shape[0]


def _places(sheet: np.ndarray, image: torch.Tensor, scale: int) -> tuple[int, int]:
    """Upper and left edge of the one place where the picture has this image."""
    tile = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy().repeat(scale, 0).repeat(scale, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, tile.shape[1], axis=1)
    corner = np.argwhere((windows[: -tile.shape[0] + 1] == tile[0]).all(-1))
    found = [(y, x) for y, x in corner if np.array_equal(sheet[y : y + tile.shape[0], x : x + tile.shape[1]], tile)]
    assert len(found) == 1
    return int(found[0][0]), int(found[0][1])


def test_the_command_line_draws_and_refuses(
    sampled: DistilledSet, train: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "x.attar.safetensors", tmp_path / "x.png"
    sampled.save(file)
    command = ["show", str(file), "--out", str(out), "--overwrite"]
    sizes = []
    for more in (["--between", "cat,dog"], ["--between", "cat,dog,a,b:1", "--steps", "4"], ["--samples", "2"]):
        assert main([*command, *more]) == 0
        with Image.open(out) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] > sizes[1][0] and sizes[1][1] > sizes[0][1]
    assert main([*command, "--between", "cat,dog", "--interpolation", "spherical", "--steps", "3"]) == 0
    capsys.readouterr()
    for more, told in (
        (["--steps", "3"], "no effect without between"),
        (["--interpolation", "linear"], "no effect without between"),
        (["--between", "cat,dog", "--samples", "2"], "samples has no effect on a picture of between"),
        (["--between", "cat,dog", "--per-class", "2"], "per_class has no effect"),
        (["--samples", "2", "--epoch", "2"], "epoch has no effect on a picture of samples"),
        (["--between", "cat,cow"], "unknown class"),
    ):
        assert main([*command, *more]) == 2
        printed = capsys.readouterr().err
        assert told in printed and printed.count("\n") == 1
    still = built(train, priors(train, config=SMALL.model_copy(update={"distribution": "fixed"})))
    with pytest.raises(InputError, match="the same in every epoch"):
        attar.show(still, out, samples=2, overwrite=True)
    assert attar.show(still, out, between=["cat", "dog"], overwrite=True) == out
