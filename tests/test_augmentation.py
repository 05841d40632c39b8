"""DSA and CutMix: agreement with the literal oracle, gradients, replay, and where randomness comes from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.data.augmentation import OPERATIONS, Dsa, DsaConfig, DsaParameters, cutmix, draw_cutmix
from reference.dsa import augment


def images_of(count: int, channels: int = 3, height: int = 9, width: int = 12) -> Tensor:
    return torch.randn(count, channels, height, width, generator=generator(1, "images"), dtype=torch.float64)


def drawn_for(
    name: str, count: int, shape: tuple[int, int, int], siamese: bool, seed: int = 0
) -> tuple[Dsa, DsaParameters]:
    dsa = Dsa(DsaConfig(strategy=name))
    return dsa, dsa.draw(count, shape, generator(seed, "dsa"), siamese)


@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_agrees_with_the_literal_oracle(name: str, channels: int, siamese: bool) -> None:
    images = images_of(4, channels)
    dsa, drawn = drawn_for(name, 4, (channels, 9, 12), siamese)
    result = dsa.apply(images, drawn)
    for index, image in enumerate(images):
        place = 0 if siamese else index
        values = {key: value[place].double().item() for key, value in drawn.values.items()}
        torch.testing.assert_close(result[index], augment(image, name, values), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_images(name: str) -> None:
    images = images_of(16)
    dsa, drawn = drawn_for(name, 16, (3, 9, 12), siamese=False)
    assert not torch.equal(dsa.apply(images, drawn), images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_siamese_parameters_fit_any_batch(name: str) -> None:
    images = images_of(7)
    dsa, drawn = drawn_for(name, 3, (3, 9, 12), siamese=True)
    torch.testing.assert_close(dsa.apply(images[:2], drawn), dsa.apply(images, drawn)[:2], rtol=0, atol=1e-14)


def test_per_image_parameters_refuse_another_batch_size() -> None:
    dsa, drawn = drawn_for("rotate", 4, (3, 9, 12), siamese=False)
    with pytest.raises(ValueError, match="drawn for 4 images"):
        dsa.apply(images_of(5), drawn)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_right_and_reach_what_is_seen(name: str) -> None:
    images = images_of(2, 3, 5, 6).requires_grad_()
    dsa, drawn = drawn_for(name, 2, (3, 5, 6), siamese=False)
    assert torch.autograd.gradcheck(lambda x: dsa.apply(x, drawn), images, fast_mode=True)
    weights = torch.randn(2, 3, 5, 6, generator=generator(2), dtype=torch.float64)
    (dsa.apply(images, drawn) * weights).sum().backward()
    gradient = images.grad
    assert gradient is not None
    reached = gradient != 0
    if name in ("color", "flip"):
        assert reached.all()
    elif name == "cutout":
        for index in range(2):
            top, left, bottom, right = (
                max(0, int(drawn.values[key][index])) for key in ("top", "left", "bottom", "right")
            )
            assert not reached[index, :, top:bottom, left:right].any()
            assert reached[index].sum() == 3 * (30 - (min(bottom, 5) - top) * (min(right, 6) - left))
    elif name == "crop":
        for index in range(2):
            lost = abs(int(drawn.values["shift_rows"][index])), abs(int(drawn.values["shift_columns"][index]))
            assert reached[index].sum() == 3 * (5 - lost[0]) * (6 - lost[1])
    else:
        assert reached[:, :, 1:-1, 1:-1].all()


def test_values_stay_within_the_strengths_of_the_field() -> None:
    dsa = Dsa(DsaConfig(mode="multiple"))
    values = dsa.draw(2000, (3, 32, 32), generator(3), siamese=False).values
    ranges = {
        "brightness": (-0.5, 0.5), "saturation": (0, 2), "contrast": (0.5, 1.5), "scale_x": (1 / 1.2, 1.2),
        "scale_y": (1 / 1.2, 1.2), "angle": (-0.2618, 0.2618), "shift_rows": (-4, 4), "shift_columns": (-4, 4),
        "top": (-8, 24), "left": (-8, 24), "bottom": (8, 40), "right": (8, 40),
    }  # fmt: skip
    for key, (low, high) in ranges.items():
        lowest, highest = values[key].min().item(), values[key].max().item()
        assert low <= lowest < low + 0.02 * (high - low), key
        assert high - 0.02 * (high - low) < highest <= high, key
    assert 0.45 < values["flipped"].double().mean() < 0.55
    assert not torch.equal(values["scale_x"], values["scale_y"])


def test_single_mode_draws_every_operation_and_multiple_applies_all() -> None:
    single = Dsa(DsaConfig())
    drawn = [single.draw(2, (3, 8, 8), generator(seed), siamese=True).operations for seed in range(60)]
    assert {names[0] for names in drawn} == set(OPERATIONS) and all(len(names) == 1 for names in drawn)
    multiple = Dsa(DsaConfig(strategy="rotate_color", mode="multiple"))
    parameters = multiple.draw(2, (3, 9, 12), generator(0), siamese=True)
    assert parameters.operations == ("rotate", "color")
    rotated = multiple.apply(images_of(2), DsaParameters(("rotate",), parameters.values))
    both = multiple.apply(images_of(2), parameters)
    torch.testing.assert_close(both, multiple.apply(rotated, DsaParameters(("color",), parameters.values)))


def test_randomness_comes_from_the_generator_alone() -> None:
    dsa = Dsa(DsaConfig(mode="multiple"))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dsa.draw(5, (3, 8, 8), generator(4), siamese=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = dsa.draw(5, (3, 8, 8), generator(4), siamese=False)
    assert all(torch.equal(first.values[key], second.values[key]) for key in first.values)
    other = dsa.draw(5, (3, 8, 8), generator(5), siamese=False)
    assert not torch.equal(first.values["angle"], other.values["angle"])


def test_grey_images_know_no_saturation() -> None:
    dsa, drawn = drawn_for("color", 3, (1, 8, 8), siamese=True)
    still = DsaParameters(("color",), drawn.values | {"saturation": torch.ones(1)})
    images = images_of(3, 1, 8, 8)
    torch.testing.assert_close(dsa.apply(images, drawn), dsa.apply(images, still))


@pytest.mark.parametrize("strategy", ["colour", "color_color", ""])
def test_bad_strategies_are_refused(strategy: str) -> None:
    with pytest.raises(ValueError, match="augmentation"):
        DsaConfig(strategy=strategy)


def test_cutmix_pastes_the_drawn_box_and_weighs_by_area() -> None:
    images, labels = images_of(6), torch.arange(6)
    mixed, first, second, weight = cutmix(images, labels, generator(1, "mix"), 1.0)
    partners, boxes = draw_cutmix(6, (9, 12), generator(1, "mix"), 1.0)
    assert torch.equal(first, labels) and torch.equal(second, labels[partners])
    for index in range(6):
        expected = images[index].clone()
        top, left, bottom, right = boxes[index].tolist()
        expected[:, top:bottom, left:right] = images[partners[index], :, top:bottom, left:right]
        assert torch.equal(mixed[index], expected)
        assert weight[index].item() == pytest.approx(1 - (bottom - top) * (right - left) / 108)
    assert len({tuple(box) for box in boxes.tolist()}) > 3


def test_cutmix_replays_and_keeps_images_at_probability_zero() -> None:
    images, labels = images_of(6), torch.arange(6)
    first, second = (cutmix(factor * images, labels, generator(1, "mix"), 0.5)[0] for factor in (1, 2))
    torch.testing.assert_close(2 * first, second)
    untouched, _, _, weight = cutmix(images, labels, generator(1), 0.0)
    assert torch.equal(untouched, images) and (weight == 1).all()
    assert not draw_cutmix(6, (9, 12), generator(1), 0.0)[1].any()


def test_cutmix_keeps_half_of_the_area_on_average() -> None:
    _, boxes = draw_cutmix(4000, (32, 32), generator(9), 1.0)
    top, left, bottom, right = boxes.unbind(1)
    share = ((bottom - top) * (right - left)).double().mean() / 32**2
    # Uniform in area before the borders cut boxes off: below one half, above one quarter.
    assert 0.25 < share < 0.5
    assert (boxes >= 0).all() and (boxes <= 32).all()
