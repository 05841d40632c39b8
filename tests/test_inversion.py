"""SRe2L's recovery against its loss written out; what couples items, and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.reference.inversion import literal_inversion, literal_view
from tests.reference.observer import LiteralObserver
from torch import Tensor

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.methods.objectives.inversion import Inversion, InversionConfig, Moments, View, draw_view, groups_of
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import recipe
from attar.models.real_items import RealItems
from attar.runs.updates import Updates
from small_observer import SmallObserver
from small_sets import digit_images

SHAPE = (1, 8, 8)


def noise(labels: Tensor, observer: SmallObserver, dtype: torch.dtype = torch.float64) -> Codes:
    """Items as SRe2L starts from, in network inputs."""
    start = torch.randn(len(labels), *SHAPE, generator=generator(0, "noise"))
    return Codes(observer.preprocess, start, labels).to(dtype)


def objective_for(config: InversionConfig, observer: SmallObserver) -> Inversion:
    made = config.build(Context(SHAPE, 10, observer=observer))
    assert isinstance(made, Inversion)
    return made


def real() -> RealItems:
    """No real item is looked at."""
    images = digit_images()
    return RealItems(images.labels, 10, codes=torch.full((len(images), *SHAPE), float("nan")))


def step_generator(step: int = 0) -> torch.Generator:
    return generator(0, "step", step)


def views(config: InversionConfig, count: int) -> list[View]:
    seed = int(torch.randint(2**62, (1,), generator=step_generator()))
    return [draw_view(config, 8, 8, generator(seed, "group", number)) for number in range(count)]


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("crop", [None, (0.3, 0.9)])
def test_loss_and_gradient_agree_with_the_literal_loop(chunk: int, crop: Any) -> None:
    """Three groups of 4, 4 and 3 items; chunks change nothing, although statistics belong to a group."""
    config = InversionConfig(r_bn=0.7, first_factor=3.0, group_size=4, crop=crop, jitter=0.5, chunk_items=chunk)
    observer = SmallObserver()
    items = noise(torch.tensor([0] * 5 + [1] * 4 + [2] * 2), observer)
    figures = objective_for(config, observer.double()).accumulate(items, real(), step_generator())
    literal = LiteralObserver(SmallObserver())
    codes = items.codes.detach().clone().requires_grad_()
    images = codes * literal.std[:, None, None] + literal.mean[:, None, None]
    groups = [[0, 5, 9, 1], [6, 10, 2, 7], [3, 8, 4]]
    parts = []
    for view, group in zip(views(config, 3), groups, strict=True):
        seen = [literal_view(images[item], view.box, view.flipped, view.shifts) for item in group]
        parts.append(literal_inversion(literal, seen, items.labels[group].tolist(), 0.7, 3.0))
    entropy, gap = (torch.stack(column).sum() for column in zip(*parts, strict=True))
    (entropy + gap).backward()
    assert min(float(entropy.detach()), float(gap.detach())) > 0.1
    assert figures["loss"] == pytest.approx(float((entropy + gap).detach()), rel=1e-12)
    assert figures["cross_entropy"] == pytest.approx(float(entropy.detach()) / 3, rel=1e-12)
    assert figures["statistics"] == pytest.approx(float(gap.detach()) / 3, rel=1e-12)
    torch.testing.assert_close(items.codes.grad, codes.grad, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("chunk", [2, 256])
def test_groups_do_not_depend_on_each_other_and_items_of_a_group_do(chunk: int) -> None:
    config, observer = InversionConfig(group_size=4, chunk_items=chunk), SmallObserver()
    gradients = []
    for changed in (None, 7, 3):
        items = noise(torch.arange(8) % 4, observer)
        if changed is not None:
            items.codes.data[changed] += 1
        objective_for(config, observer.double()).accumulate(items, real(), step_generator())
        gradients.append(items.codes.grad)
    first, other_group, own_group = (each[:3] for each in gradients if each is not None)
    assert groups_of(torch.arange(8) % 4, 4)[0].tolist() == [0, 1, 2, 3]
    assert torch.equal(first, other_group)
    assert ((first - own_group).flatten(1).norm(dim=1) > 1e-6).all()


def test_groups_are_dealt_out_class_by_class() -> None:
    labels = torch.arange(10).repeat_interleave(3)
    for group in groups_of(labels, 10):
        assert labels[group].tolist() == list(range(10))
    assert torch.cat(groups_of(labels, 10)).sort().values.tolist() == list(range(30))
    assert [len(group) for group in groups_of(labels, 12)] == [10, 10, 10]
    assert [len(group) for group in groups_of(labels, 29)] == [15, 15]
    assert len(groups_of(labels, 30)) == len(groups_of(labels, 500)) == 1
    unsorted = torch.tensor([2, 0, 2, 0, 0])
    assert [group.tolist() for group in groups_of(unsorted, 2)] == [[1, 0], [3, 2], [4]]


def test_a_view_is_the_literal_one() -> None:
    images = torch.rand(2, 1, 6, 8, dtype=torch.float64, generator=generator(0, "images"))
    for view in (View((1, 2, 4, 7), True, (2, 3)), View((0, 0, 6, 8), True, (0, 0)), View((0, 0, 6, 8), False, (5, 1))):
        expected = torch.stack([literal_view(each, view.box, view.flipped, view.shifts) for each in images])
        torch.testing.assert_close(view.apply(images), expected)
    assert torch.equal(View((0, 0, 6, 8), False, (0, 0)).apply(images), images)


def test_views_are_drawn_as_the_settings_say() -> None:
    config = InversionConfig(crop=(0.2, 0.6), flip=0.25, jitter=1 / 7)
    drawn = [draw_view(config, 224, 200, generator(0, "view", number)) for number in range(400)]
    boxes = torch.tensor([view.box for view in drawn])
    rows, columns = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, aspect = rows * columns / (224 * 200), columns / rows
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 224 and boxes[:, 3].max() <= 200
    assert 0.19 < share.min() < 0.22 and 0.58 < share.max() < 0.61
    assert 0.74 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.35
    assert aspect.log().mean().abs() < 0.05
    assert 0.15 < sum(view.flipped for view in drawn) / 400 < 0.35
    down, across = torch.tensor([view.shifts for view in drawn]).unbind(1)
    assert (down.min(), down.max(), across.max()) == (0, 32, 29)
    plain = draw_view(InversionConfig(crop=None, flip=0.0, jitter=0.0), 5, 7, generator(0, "view"))
    assert plain == View((0, 0, 5, 7), False, (0, 0))
    strip = [draw_view(InversionConfig(crop=(1.0, 1.0)), 4, 64, generator(0, "view", number)) for number in range(9)]
    assert all(view.box == (0, 0, 4, 64) for view in strip), "no crop of the whole area has an aspect of at most 4:3"


def test_moments_are_joined_without_loss() -> None:
    """float32 far from zero, where mean squares would cancel."""
    values = 1000 + torch.randn(7, 3, 4, 4, generator=generator(0, "values"))
    joined = Moments.of(values[:1]).joined(Moments.of(values[1:3])).joined(Moments.of(values[3:]))
    exact = values.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(joined.variance.double(), exact, rtol=1e-3, atol=0)
    torch.testing.assert_close(joined.mean.double(), values.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    assert joined.count == 7 * 16


def test_the_observer_is_left_as_it_is() -> None:
    observer = SmallObserver().requires_grad_(True)
    before = {name: value.clone() for name, value in observer.state_dict().items()}
    items = noise(torch.arange(4), observer, torch.float32)
    for chunk in (2, 256):
        objective_for(InversionConfig(chunk_items=chunk), observer).accumulate(items, real(), step_generator())
    assert all(value.grad is None for value in observer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in observer.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in observer.modules())


def test_recovery_lowers_both_parts_and_stays_in_range() -> None:
    """SRe2L's optimiser for 60 steps: the observer takes the items for their classes."""
    observer = SmallObserver(width=16, num_steps=60)
    items = noise(torch.arange(10), observer, torch.float32)
    changes = {"kind": "adam", "learning_rate": 0.25, "betas": [0.5, 0.9], "momentum": 0.0, "schedule": "cosine"}
    changes |= {"learning_rate_unit": "absolute", "valid_range": True}
    config = override(recipe("latent-dm"), {f"optimizer.{name}": value for name, value in changes.items()})
    objective = objective_for(InversionConfig(r_bn=0.1, crop=None, flip=0.0, jitter=0.125), observer)
    updates, figures = Updates(config, items, objective, 1), []
    for step in range(60):
        updates.clear()
        figures.append(objective.accumulate(items, real(), step_generator(step)))
        updates.take(step / 60)
        images = items.images(torch.arange(10))
        assert images.min() > -1e-6 and images.max() < 1 + 1e-6
    for name in ("cross_entropy", "statistics"):
        assert sum(each[name] for each in figures[-5:]) < 0.8 * sum(each[name] for each in figures[:5])
    assert (observer.logits(items.images(torch.arange(10))).argmax(1) == items.labels).float().mean() >= 0.8


def test_chunks_are_halved_and_resumed() -> None:
    observer = SmallObserver()
    objective = objective_for(InversionConfig(chunk_items=3), observer)
    assert objective.halve_memory()
    state = dict(objective.resume_state())
    assert not objective.halve_memory()
    again = objective_for(InversionConfig(chunk_items=256), observer)
    again.resume({})
    assert again.chunk_items == 256
    again.resume(state)
    assert again.chunk_items == 1


def test_an_observer_without_batch_norm_is_refused() -> None:
    with pytest.raises(InputError, match=r"no batch norm.*convnet:batch"):
        objective_for(InversionConfig(), SmallObserver(norm="instance"))
    with pytest.raises(ValueError, match="needs an observer"):
        InversionConfig().build(Context(SHAPE, 10))


def test_what_it_needs_and_allows() -> None:
    config = InversionConfig()
    assert ("observer" in config.needs) and "originals" not in config.needs
    assert config.augmentation is None and "augmentation" not in config.model_dump()
    assert math.isclose(config.jitter * 224, 32)
    for wrong in ({"crop": (0.5, 0.2)}, {"crop": (0.0, 1.0)}, {"group_size": 0}, {"jitter": 1.5}):
        with pytest.raises((ValidationError, ValueError)):
            InversionConfig(**wrong)
