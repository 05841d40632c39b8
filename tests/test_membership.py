"""Membership inference: the score, the figures, and what it finds in sets of which the members are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reference.audit import literal_ratios
from torch import Tensor

import attar
from attar.base.engines import Local
from attar.base.errors import InputError
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.image_set import Splits
from attar.evaluation.protocol import Protocol, protocol
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.registry import network_from_text
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from attar.studies import distillation
from attar.studies.audit import membership as room
from attar.studies.audit.card import AuditCard
from attar.studies.audit.membership import Shadows, Training, attack, half, likelihood_ratios, recipe_of
from small_sets import build, digit_images


def known(num_sets: int, count: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    """Confidences that are `shift` higher for members, and who they are."""
    draw = generator(seed, "phi")
    members = torch.stack([half(seed, number, torch.zeros(count).long()) for number in range(num_sets)])
    level = 2 * torch.randn(1, count, generator=draw, dtype=torch.float64)
    noise = torch.randn(num_sets, count, generator=draw, dtype=torch.float64)
    return level + noise + shift * members, members


@pytest.mark.parametrize("target", [0, 3])
def test_scores_are_the_likelihood_ratios(target: int) -> None:
    phi, members = known(5, 40, 0.5, 1)
    expected = literal_ratios(phi.tolist(), members.tolist(), target)
    found = likelihood_ratios(phi, members, target)
    assert [value is None for value in expected] == found.isnan().tolist()
    assert None in expected  # five sets leave some candidates on one side only
    for own, literal in zip(found.tolist(), expected, strict=True):
        assert literal is None or own == pytest.approx(literal, rel=1e-9)


def test_the_attacked_set_tells_nothing_by_its_absence() -> None:
    """Where confidences do not depend on membership the mean area is 1/2, though each set is left out in turn."""
    areas = [attack(*known(4, 400, 0.0, seed))[0].mean for seed in range(25)]
    assert sum(areas) / len(areas) == pytest.approx(0.5, abs=0.006)


def test_the_interval_allows_for_shadows_that_are_shared() -> None:
    """It leaves out 1/2 about as often as it should; as if the sets were independent it would twice as often."""
    outside = {1.0: 0, 2**-0.5: 0}
    for seed in range(150):
        area = attack(*known(6, 100, 0.0, seed))[0]
        for scale in outside:
            outside[scale] += abs(area.mean - 0.5) > scale * (area.high - area.mean)
    assert outside[1.0] <= 0.07 * 150 < 0.1 * 150 < outside[2**-0.5]


def test_members_that_stand_out_are_found() -> None:
    area, rates = attack(*known(16, 500, 3.0, 0))
    assert area.low > 0.9
    assert rates[0].found is not None and rates[0].found.low > 0.3
    assert rates[1].found is None  # 250 others cannot resolve one in a thousand


def test_halves_are_halves_of_every_class_and_independent() -> None:
    labels = torch.arange(400) % 4
    halves = torch.stack([half(0, number, labels) for number in range(30)])
    assert all(torch.bincount(labels[inside]).tolist() == [50] * 4 for inside in halves)
    together = (halves.double() @ halves.double().T)[~torch.eye(30, dtype=torch.bool)] / 400
    assert float(together.mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(half(0, 7, labels), halves[7]) and not torch.equal(half(1, 7, labels), halves[7])


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Four digits that are hard to tell apart, 24 images of each to learn from."""
    images = digit_images().with_classes([1, 3, 8, 9])
    train = torch.cat([members[:24] for members in images.class_indices])
    test = torch.cat([members[24:40] for members in images.class_indices])
    return Splits(images.select(train), images.select(test), "digits")


@pytest.fixture(scope="module")
def short() -> Protocol:
    chosen = protocol("quick")
    few = {"epochs": 80, "min_steps": None, "max_steps": 80, "learning_rate": 0.1, "augmentation": None}
    training = TrainingConfig.model_validate({**dict(chosen.training), **few})
    return chosen.model_copy(update={"training": training})


def run(splits: Splits, short: Protocol, seed: int = 0, shadows: int = 12) -> room.Membership:
    small = attar.distill(splits, "random", "12lpc", device="cpu")  # all images of a half
    training = Training(network_from_text("convnet:d1w16"), short, torch.device("cpu"))
    return Shadows.like(small, splits, training, seed=seed).membership(shadows, Local(), Silent())


def means_of_classes(data: Splits, *_: Any, seed: int = 0, **__: Any) -> DistilledSet:
    """A set of one image a class, the mean of all that there are."""
    codec = fit_codec(PixelsConfig(), data.train)
    means = torch.stack([data.train.images[members].float().mean(0) / 255 for members in data.train.class_indices])
    codes = Codes(codec, codec.encode(means), torch.arange(len(means)), "float32")
    facts: dict[str, Any] = {"classes": data.train.classes, "recipe": {"name": "means"}, "initial": ("other", [])}
    return DistilledSet.build(codes, codec, data=("digits", data.train), **facts)


def test_sets_of_real_images_leak_membership_and_class_means_hardly(
    splits: Splits, short: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = run(splits, short)
    assert leaking.area.low > 0.55
    assert leaking.num_members == 48 and leaking.num_candidates == 96
    monkeypatch.setattr(distillation, "distill", means_of_classes)
    averaged = run(splits, short, seed=1)
    assert averaged.area.mean < leaking.area.low


def test_a_stopped_attack_goes_on_where_it_was(
    splits: Splits, short: Protocol, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    made: list[int] = []
    whole = room.shadow_confidences

    def counted(work: Any, number: int, progress: Any) -> list[float]:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(number)
        return whole(work, number, progress)

    monkeypatch.setattr(room, "shadow_confidences", counted)
    with pytest.raises(KeyboardInterrupt):
        run(splits, short, shadows=6)
    assert made == [0, 1, 2]
    monkeypatch.setattr(
        room, "shadow_confidences", lambda work, number, _: made.append(number) or whole(work, number, _)
    )
    first = run(splits, short, shadows=6)
    assert made == list(range(6))
    damaged = next((own_cache / "audit").glob("*.json"))
    damaged.write_text("{")
    assert run(splits, short, shadows=6) == first and len(made) == 7


def test_how_a_set_was_made_is_read_from_its_file(splits: Splits) -> None:
    squeezed = {"observer.network.width": 8, "observer.network.depth": 1, "observer.training.min_steps": 5}
    tiny = {"observer.training.epochs": 1, "observer.least_accuracy": 0.0, "labels.epochs": 2, "steps": 1}
    lic = attar.distill(splits.train, "lic", "2ipc", device="cpu", settings={**squeezed, **tiny})
    recipe, budget = recipe_of(lic)
    assert (recipe.name, recipe.steps, budget) == ("lic", 1, "2lpc")
    again = attar.distill(splits.train, recipe, budget, device="cpu")
    assert again.num_per_class == lic.num_per_class
    with pytest.raises(InputError, match="does not say by which recipe"):
        recipe_of(build(digit_images()))


def test_the_card_of_an_attack_says_how_weak_it_was(splits: Splits, short: Protocol) -> None:
    small = attar.distill(splits, "random", "9lpc", device="cpu")
    card = attar.audit(small, splits, network="convnet:d1w4", protocol=short, shadows=5, device="cpu")
    assert card.membership is not None and AuditCard.from_json(card.to_json()) == card
    told = "\n".join(card.remarks())
    assert "too few images outside a set to resolve 1 % false positives" in told
    assert "5 shadows are a weak attack" in told and "0.5 is guessing" in told
