"""Key and hardest samples, RDED's crops, and the real images behind items."""

from __future__ import annotations

import math

import pytest
import torch
from tests.reference.selection import literal_crop, literal_key_samples, literal_loss
from torch import Tensor

from attar.base.config import Config, override, parse_config
from attar.base.errors import InputError
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.methods.initialization import Choice, KeySamplesConfig, Sources, key_samples
from attar.methods.initialization.scoring import draw_pools, observer_losses
from attar.methods.initialization.sources import random_crops


class Linear:
    """A classifier of digits in one matrix: each class's mean image, seen through a few numbers."""

    def __init__(self, train: ImageSet, sharpness: float = 1.0) -> None:
        means = [train.images[members].double().mean(0) / 255 for members in train.class_indices]
        self.weights = (torch.stack(means) - torch.stack(means).mean(0)).flatten(1) * sharpness
        self.batches: list[int] = []

    def logits(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images.double().flatten(1) @ self.weights.T


class Reading(Tensor):
    """Pixels that note which rows are read."""

    rows: list[int]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor):
            cls.rows += args[1].tolist()
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result.as_subclass(Tensor) if func is Tensor.__getitem__ else result


class Counting(Progress):
    """Adds up what is reported."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, description: str, total: int) -> None:
        self.total = total

    def advance(self, count: int = 1, **figures: float) -> None:
        self.done += count

    def finish(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_images("digits").train


def _small(train: ImageSet, per_class: int = 6) -> ImageSet:
    """The first images of three classes, shuffled."""
    chosen = torch.cat([members[:per_class] for members in train.class_indices[:3]])
    mixed = chosen[torch.randperm(len(chosen), generator=generator(0, "shuffle"))]
    return train.select(mixed).with_classes(list(train.classes[:3]))


@pytest.mark.parametrize("crops", [0, 1, 5])
@pytest.mark.parametrize("kind", ["key", "hardest"])
def test_selection_is_the_literal_one(kind: str, crops: int, train: ImageSet) -> None:
    small = _small(train)
    observer = Linear(small)
    config = KeySamplesConfig.model_validate({"kind": kind, "pool": 5, "crops": crops})
    chosen = key_samples(config, observer, small, 3, generator(7, "select"))
    draw = generator(7, "select")
    pools = draw_pools(5, small, 3, draw)
    boxes = random_crops(15 * crops, small.image_shape, draw).view(3, 5, crops, 4).tolist() if crops else None
    literal = literal_key_samples(
        lambda image: (observer.weights @ image.flatten().double()).tolist(),
        [[small.images[index].double() / 255 for index in pool.tolist()] for pool in pools],
        boxes,
        3,
        hardest=kind == "hardest",
    )
    expected = [int(pools[label][place]) for label, entries in enumerate(literal) for place, _ in entries]
    assert chosen.indices.tolist() == expected
    assert chosen.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    if boxes is None:
        assert chosen.boxes is None
    else:
        assert chosen.boxes is not None
        kept = [boxes[label][place][crop] for label, entries in enumerate(literal) for place, crop in entries]
        assert chosen.boxes.tolist() == kept


def test_key_and_hardest_are_the_two_ends_of_one_pool(train: ImageSet) -> None:
    observer = Linear(train)
    found = {}
    for kind in ("key", "hardest"):
        config = KeySamplesConfig.model_validate({"kind": kind, "pool": 40})
        chosen = key_samples(config, observer, train, 20, generator(0, "select"))
        found[kind] = chosen.indices.view(10, 20)
        losses = observer_losses(observer, chosen.images, chosen.labels).view(10, 20)
        steps = losses.diff(dim=1)
        assert bool((steps >= 0).all() if kind == "key" else (steps <= 0).all())
    pools = draw_pools(40, train, 20, generator(0, "select"))
    for label, pool in enumerate(pools):
        both = torch.cat([found["key"][label], found["hardest"][label]])
        assert both.sort().values.tolist() == pool.tolist()


def test_pools_are_drawn_at_random_of_each_class(train: ImageSet) -> None:
    pools = draw_pools(30, train, 5, generator(0, "select"))
    for label, pool in enumerate(pools):
        assert len(set(pool.tolist())) == 30
        assert set(train.labels[pool].tolist()) == {label}
        assert pool.tolist() != train.class_indices[label][:30].tolist()
    again, other = (draw_pools(30, train, 5, generator(seed, "select")) for seed in (0, 1))
    assert all(torch.equal(one, two) for one, two in zip(pools, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(pools, other, strict=True))
    assert KeySamplesConfig().pool == 300


def test_a_class_with_fewer_images_than_the_pool_gives_all(train: ImageSet) -> None:
    small = _small(train)
    pools = draw_pools(300, small, 6, generator(0, "select"))
    assert [pool.tolist() for pool in pools] == [members.tolist() for members in small.class_indices]
    chosen = key_samples(KeySamplesConfig(), Linear(small), small, 6, generator(0, "select"))
    assert sorted(chosen.indices.tolist()) == list(range(18))


def test_too_few_images_name_the_class_and_a_small_pool_its_setting(train: ImageSet) -> None:
    small = _small(train)
    with pytest.raises(InputError, match=rf"class '{small.classes[0]}' has 6 images and 7 are needed"):
        key_samples(KeySamplesConfig(), Linear(small), small, 7, generator(0, "select"))
    with pytest.raises(InputError, match=r"has 4; set initialization\.pool to at least 5"):
        key_samples(KeySamplesConfig(pool=4), Linear(small), small, 5, generator(0, "select"))
    with pytest.raises(InputError, match=rf"class '{small.classes[0]}' has 6 images and 9 are needed"):
        Sources.random(small, 9, generator(0, "select"))


def test_equal_seeds_choose_the_same(train: ImageSet) -> None:
    config = KeySamplesConfig(pool=20, crops=3)
    one, two, other = (key_samples(config, Linear(train), train, 4, generator(seed, "x")) for seed in (0, 0, 1))
    assert torch.equal(one.indices, two.indices) and not torch.equal(one.indices, other.indices)
    assert one.boxes is not None and two.boxes is not None and torch.equal(one.boxes, two.boxes)


def test_losses_are_cross_entropies_whatever_the_batch(train: ImageSet) -> None:
    observer, sources = Linear(train), Sources(train, torch.arange(50))
    progress = Counting()
    losses = observer_losses(observer, sources.images, sources.labels, 7, progress)
    assert observer.batches == [7] * 7 + [1]
    assert (progress.total, progress.done) == (50, 50)
    for index in range(50):
        logits = observer.logits(sources.images(torch.tensor([index])))[0].tolist()
        assert abs(float(losses[index]) - literal_loss(logits, int(train.labels[index]))) < 1e-9
    torch.testing.assert_close(losses, observer_losses(observer, sources.images, sources.labels, 50))


def test_a_sure_observer_still_ranks(train: ImageSet) -> None:
    """Probabilities round to one, and losses as their logarithms to zero, long before the order is lost."""

    class Sure:
        def logits(self, images: Tensor) -> Tensor:
            scores = torch.zeros(len(images), 10)
            scores[:, 3] = 60 + images.flatten(1).mean(1)
            return scores

    own = train.class_indices[3][:20]
    sources = Sources(train, own)
    losses = observer_losses(Sure(), sources.images, sources.labels)
    assert bool((losses > 0).all()) and len(set(losses.tolist())) > 15
    brightness = sources.images(torch.arange(20)).flatten(1).mean(1)
    assert losses.argsort()[0] == brightness.argmax()
    wrong = observer_losses(Sure(), sources.images, torch.zeros(20, dtype=torch.int64))
    assert torch.allclose(wrong, 60 + brightness.double(), atol=1e-5)


def test_losses_that_are_not_finite_are_refused(train: ImageSet) -> None:
    class Broken:
        def logits(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 10), torch.nan)

    with pytest.raises(InputError, match="losses are not finite"):
        key_samples(KeySamplesConfig(pool=3), Broken(), train, 2, generator(0, "select"))


def test_only_the_images_asked_for_are_read(train: ImageSet) -> None:
    Reading.rows = []
    watched = ImageSet(train.images.as_subclass(Reading), train.labels, train.classes)
    sources = Sources(watched, torch.tensor([9, 4, 9, 700]), random_crops(4, train.image_shape, generator(0, "c")))
    sources.select(torch.tensor([1, 3]))
    assert Reading.rows == []
    images = sources.images(torch.tensor([2, 0, 3]))
    assert sorted(Reading.rows) == [9, 700]
    plain = Sources(train, sources.indices, sources.boxes).images(torch.tensor([2, 0, 3]))
    assert torch.equal(images, plain)
    Reading.rows = []
    chosen = key_samples(KeySamplesConfig(pool=5), Linear(train), watched, 2, generator(0, "select"))
    pools = draw_pools(5, train, 2, generator(0, "select"))
    assert sorted(Reading.rows) == sorted(torch.cat(pools).tolist())
    assert set(chosen.indices.tolist()) <= set(Reading.rows)


def test_sources_are_the_images_or_their_crops(train: ImageSet) -> None:
    indices = torch.tensor([5, 3, 5])
    whole = Sources(train, indices)
    assert len(whole) == 3 and whole.labels.tolist() == train.labels[indices].tolist()
    assert torch.equal(whole.images(torch.tensor([2, 1])), train.images[[5, 3]].float() / 255)
    boxes = torch.tensor([[0, 0, 8, 8], [1, 2, 5, 3], [7, 0, 1, 8]]).double() / 8
    cropped = Sources(train, indices, boxes).images(torch.arange(3))
    assert torch.allclose(cropped[0], train.images[5].float() / 255, atol=1e-6)
    for image, index, box in zip(cropped, indices.tolist(), boxes.tolist(), strict=True):
        assert (image - literal_crop(train.images[index] / 255, box)).abs().max() < 1e-6
    picked = Sources(train, indices, boxes).select(torch.tensor([2, 0]))
    assert torch.equal(picked.images(torch.arange(2)), cropped[[2, 0]])


def test_random_sources_are_class_major(train: ImageSet) -> None:
    sources = Sources.random(train, 3, generator(0, "random"))
    assert sources.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert len(set(sources.indices.tolist())) == 30


def test_crops_are_whole_pixels_inside_of_areas_as_drawn() -> None:
    boxes = random_crops(4000, (3, 40, 64), generator(0, "crops"))
    pixels = boxes * torch.tensor([40, 64, 40, 64])
    assert (pixels - pixels.round()).abs().max() < 1e-9
    assert float(boxes.min()) >= 0 and float((boxes[:, :2] + boxes[:, 2:]).max()) <= 1 + 1e-12
    area = boxes[:, 2] * boxes[:, 3]
    assert float(area.min()) > 0.06 and float(area.max()) <= 1
    assert abs(float(area.mean()) - 0.54) < 0.02
    middle = (pixels[:, 1] + pixels[:, 3] / 2).mean() / 64
    assert abs(float(middle) - 0.5) < 0.01
    smallest = random_crops(50, (1, 2, 1), generator(0, "crops")) * torch.tensor([2, 1, 2, 1])
    assert float(smallest[:, 2:].min()) == 1


class _Start(Config):
    initialization: Choice = "random"


def test_a_recipe_may_name_its_start_or_set_it() -> None:
    assert override(_Start(), {"initialization": "hardest"}).initialization == KeySamplesConfig(kind="hardest")
    assert override(_Start(), {"initialization": "herding"}).initialization == "herding"
    key = override(_Start(initialization=KeySamplesConfig()), {"initialization.crops": 5})
    assert key.initialization == KeySamplesConfig(crops=5)
    assert parse_config(_Start, key.model_dump_json(), "x") == key
    with pytest.raises(InputError, match="'random', 'herding' or 'k-centre', received 'hording'"):
        override(_Start(), {"initialization": "hording"})
    with pytest.raises(InputError, match=r"initialization\.pol"):
        override(key, {"initialization.pol": 5})
    with pytest.raises(InputError, match="greater than or equal to 1"):
        override(key, {"initialization.pool": 0})


def test_the_losses_of_a_linear_observer_are_of_use(train: ImageSet) -> None:
    """The stand-in above tells digits apart, so that its ranking means something."""
    sources = Sources.random(train, 20, generator(0, "random"))
    assert float(observer_losses(Linear(train), sources.images, sources.labels).mean()) < math.log(10) / 2
