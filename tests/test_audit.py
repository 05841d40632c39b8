"""The audit: neighbours, copies and labels of sets of which it is known what they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.reference.audit import literal_area, literal_nearest, literal_rate, literal_tail
from torch import Tensor

import attar
from attar.base.errors import InputError
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.cli import main
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.protocol import protocol
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from attar.studies.audit import auditing
from attar.studies.audit.auditing import audit
from attar.studies.audit.card import NO_GUARANTEE, AuditCard
from attar.studies.audit.labels import label_facts
from attar.studies.audit.membership import roc_figures
from attar.studies.audit.neighbours import (
    Nearest,
    binomial_interval,
    compared,
    copy_limit,
    equal_parts,
    nearest,
    pixel_space,
    quantiles_of_others,
    tail_probability,
)
from small_sets import build, digit_images

NETWORK = "convnet:d1w8"


@pytest.fixture(scope="module")
def splits() -> Splits:
    """The digits: 100 images of each class to learn from, 50 held out."""
    images = digit_images()
    train = torch.cat([members[:100] for members in images.class_indices])
    test = torch.cat([members[100:150] for members in images.class_indices])
    return Splits(images.select(train), images.select(test), "digits")


def of_images(images: Tensor, labels: Tensor, real: ImageSet) -> DistilledSet:
    """A set of given images, as int8 pixels, which claims to be made of `real`."""
    codec = fit_codec(PixelsConfig(), real)
    codes = Codes(codec, codec.encode(images.float() / 255), labels, "int8")
    facts = {"classes": real.classes, "recipe": {"name": "given"}, "data": ("digits", real), "initial": ("other", [])}
    return DistilledSet.build(codes, codec, **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def leaking(splits: Splits) -> tuple[DistilledSet, AuditCard]:
    small = attar.distill(splits, "random", "3ipc", device="cpu")
    return small, audit(small, splits, network=NETWORK, device="cpu")


@pytest.fixture(scope="module")
def strange(splits: Splits) -> AuditCard:
    """The audit of a set made of held-out images."""
    chosen = torch.cat([members[:3] for members in splits.test.class_indices])
    small = of_images(splits.test.images[chosen], splits.test.labels[chosen], splits.train)
    return audit(small, splits, network=NETWORK, device="cpu")


@pytest.mark.parametrize("mirror", [False, True])
def test_neighbours_are_those_of_a_double_loop(splits: Splits, mirror: bool) -> None:
    images = torch.rand(5, 1, 8, 8, generator=generator(0, "images"))
    places = torch.arange(0, 1000, 9)
    found = nearest(pixel_space(images, mirror), splits.train, places, Silent())
    pool = splits.train.images[places].double() / 255
    plain, indices = literal_nearest(images, pool)
    turned, others = literal_nearest(images.flip(3), pool)
    expected = [min(pair) if mirror else pair[0] for pair in zip(plain, turned, strict=True)]
    torch.testing.assert_close(found.distances, 255 * torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
    chosen = [b if mirror and t < p else a for a, b, p, t in zip(indices, others, plain, turned, strict=True)]
    assert found.indices.tolist() == places[chosen].tolist()
    assert found.mirrored.tolist() == [mirror and t < p for p, t in zip(plain, turned, strict=True)]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1, 2], [5], [2, 2, 1, 1, 4, 1]])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_tail_of_shared_neighbours_is_that_of_all_outcomes(weights: list[int], share: float) -> None:
    for observed in range(sum(weights) + 1):
        assert tail_probability(weights, share, observed) == pytest.approx(literal_tail(weights, share, observed))


def test_the_tail_of_very_many_neighbours_is_the_binomial_one() -> None:
    from scipy.stats import binom

    assert tail_probability([1] * 100_000, 0.5, 50_300) == pytest.approx(binom.sf(50_299, 100_000, 0.5), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_each_value_has_the_quantile_of_all_others(count: int, share: float) -> None:
    values = torch.rand(count, dtype=torch.float64, generator=generator(0, "values")).mul(20).round()  # some are equal
    found = quantiles_of_others(values, share)
    for place in range(count):
        others = torch.cat([values[:place], values[place + 1 :]]) if count > 1 else values
        assert float(found[place]) == pytest.approx(float(others.quantile(share)))


def test_an_alarm_is_by_the_limit_of_the_other_images() -> None:
    """One stranger is so near that its own distance pulls the limit below it."""
    space = pixel_space(torch.rand(2, 1, 8, 8), mirror=False)
    strangers = torch.tensor([4.0, *([10.0] * 60)], dtype=torch.float64)
    limit = copy_limit(space, strangers)
    assert limit.distance < 5 and limit.alarms == 1
    assert copy_limit(space, torch.tensor([3.7, *([4.0] * 20), *([10.0] * 40)], dtype=torch.float64)).alarms == 0


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (1, 400)])
def test_the_interval_is_where_each_tail_has_its_share(hits: int, trials: int) -> None:
    from scipy.stats import binom

    low, high = binomial_interval(hits, trials)
    assert low <= hits / trials <= high
    if hits:
        assert binom.sf(hits - 1, trials, low) == pytest.approx(0.025)
    if hits < trials:
        assert binom.cdf(hits, trials, high) == pytest.approx(0.025)


def test_areas_and_rates_are_those_of_all_pairs_and_thresholds() -> None:
    draw = generator(0, "scores")
    members = (torch.randn(40, generator=draw) + 0.7).mul(4).round() / 4  # rounded: some are equal
    others = torch.randn(50, generator=draw).mul(4).round() / 4
    area, rates = roc_figures(members, others, (0.02, 0.1, 0.5, 0.019))
    assert area == pytest.approx(literal_area(members.tolist(), others.tolist()))
    for rate, found in zip((0.02, 0.1, 0.5), rates, strict=False):
        assert found == pytest.approx(literal_rate(members.tolist(), others.tolist(), rate))
    assert rates[3] is None, "50 images cannot resolve less than 2 %"


def test_equal_parts_are_equal_in_every_class(splits: Splits) -> None:
    for most, expected in ((10_000, 50), (200, 20)):
        train, test = equal_parts(splits, most, 0)
        assert torch.bincount(splits.train.labels[train]).tolist() == [expected] * 10
        assert torch.bincount(splits.test.labels[test]).tolist() == [expected] * 10
        assert len(train.unique()) == len(train)
    assert not torch.equal(equal_parts(splits, 200, 0)[0], equal_parts(splits, 200, 1)[0])


def test_a_set_of_training_images_is_named_image_by_image(leaking: tuple[DistilledSet, AuditCard]) -> None:
    small, card = leaking
    found = card.found()
    assert [copy.index for copy in found] == list(small.manifest.initialization.indices)
    assert all(copy.kind == "verbatim" and copy.item_class == copy.image_class for copy in found)
    assert card.verdict.startswith("30 of 30 distilled images are copies of training images (30 verbatim)")
    assert card.compared("pixels", equal=False).p_value < 0.001
    assert not card.found("test")


def test_a_set_of_heldout_images_is_not_flagged(strange: AuditCard) -> None:
    assert not strange.found()
    assert strange.verdict.startswith("0 of 30")
    assert [copy.kind for copy in strange.found("test")] == ["verbatim"] * 30
    near = strange.compared("pixels", equal=False)
    assert near.nearer == 0 and near.p_value == 1


def test_images_of_neither_part_are_as_often_nearer_to_one_as_to_the_other(splits: Splits) -> None:
    left = torch.cat([members[150:170] for members in digit_images().class_indices])
    others = digit_images().select(left)
    card = audit(of_images(others.images, others.labels, splits.train), splits, network=NETWORK, device="cpu")
    for near in card.neighbours:
        assert near.low is not None and near.high is not None
        assert near.low - 0.05 < near.expected < near.high + 0.05
        assert near.p_value > 0.01


def test_a_mirrored_copy_is_found_where_mirroring_is_no_harm(splits: Splits) -> None:
    places = splits.train.class_indices[3][:2].tolist() + splits.train.class_indices[5][:2].tolist()
    images = splits.train.images[places].flip(3)
    small = of_images(images, splits.train.labels[places], splits.train)
    photos = Splits(splits.train, splits.test, "photos")
    found = audit(small, photos, network=NETWORK, device="cpu").found()
    assert [(copy.index, copy.mirrored, copy.kind) for copy in found] == [(p, True, "verbatim") for p in places]
    assert not [copy for copy in audit(small, splits, network=NETWORK, device="cpu").found() if copy.mirrored]


def test_copies_through_a_codec_are_found_among_codes(splits: Splits) -> None:
    """A patch PCA with few channels blurs, so that pixels alone would miss what codes show."""
    own = audit(build(splits.train, "pca:f4c2"), splits, network=NETWORK, device="cpu")
    assert {copy.item for copy in own.found()} == set(range(30))
    assert {copy.space for copy in own.found()} == {"codes"}
    assert [copy.index for copy in own.found()[:3]] == splits.train.class_indices[0][:3].tolist()
    foreign = audit(build(splits.test, "pca:f4c2"), splits, network=NETWORK, device="cpu")
    assert len(foreign.found()) <= 1


def test_the_limit_is_half_of_a_low_quantile_and_says_how_often_it_errs(strange: AuditCard) -> None:
    limit = strange.limits[0]
    assert (limit.num_heldout, limit.factor, limit.quantile) == (500, 0.5, 0.01)
    assert 0 < limit.distance < limit.median / 2
    assert limit.alarms <= 5 and limit.low <= limit.alarms / 500 <= limit.high


def test_neighbours_that_are_shared_count_together() -> None:
    space = pixel_space(torch.rand(6, 1, 8, 8), mirror=False)
    near, far = torch.full((6,), 1.0, dtype=torch.float64), torch.full((6,), 2.0, dtype=torch.float64)
    places, same = torch.arange(6), torch.zeros(6).long()

    def neighbours(distances: Tensor, indices: Tensor) -> Nearest:
        return Nearest(9, distances, indices, torch.zeros(6, dtype=torch.bool))

    apart = compared(space, neighbours(near, places), neighbours(far, places))
    shared = compared(space, neighbours(near, same), neighbours(far, places))
    assert apart.p_value == pytest.approx(0.5**6) and shared.p_value == pytest.approx(0.5)
    tied = compared(space, neighbours(near, places), neighbours(near, places))
    assert (tied.ties, tied.share, tied.low, tied.p_value) == (6, None, None, 1.0)


def test_features_can_be_those_of_a_network_trained_on_the_set(
    splits: Splits, leaking: tuple[object, AuditCard]
) -> None:
    small, random = leaking
    few = {"epochs": 2, "min_steps": None, "max_steps": 2}
    chosen = protocol("quick")
    short = chosen.model_copy(update={"training": TrainingConfig.model_validate({**dict(chosen.training), **few})})
    trained = audit(small, splits, features="set", network=NETWORK, protocol=short, device="cpu")  # type: ignore[arg-type]
    assert trained.compared("features").space == "features of a convnet:d1w8 trained on the set (quick v1)"
    assert random.compared("features").space == "features of a convnet:d1w8 with random weights"
    assert trained.compared("features").train_distances != random.compared("features").train_distances


def test_labels_are_described_as_they_are_stored(splits: Splits) -> None:
    hard, soft = label_facts(build(splits.train)), label_facts(build(splits.train, soft="float16"))
    assert (hard.kind, hard.num_values, hard.mean_entropy) == ("hard", 0, None)
    assert (soft.kind, soft.num_values, soft.num_bytes, soft.agreement) == ("soft", 300, 600, 1.0)
    assert soft.mean_entropy is not None and 0 < soft.mean_entropy < soft.largest_entropy
    assert any("300 numbers" in line for line in soft.remarks())


def test_region_labels_name_their_observer(splits: Splits) -> None:
    few = {"observer.network.width": 8, "observer.network.depth": 1, "observer.training.epochs": 1}
    more = {"observer.training.min_steps": 20, "observer.least_accuracy": 0.0, "labels.epochs": 2, "steps": 1}
    small = attar.distill(splits.train, "lic", "1ipc", device="cpu", settings={**few, **more})
    facts = label_facts(small)
    assert facts.kind == "regions" and not facts.online and facts.observer is not None
    assert facts.num_values > 0 and facts.mean_entropy is not None and 0 <= facts.mean_entropy <= facts.largest_entropy
    assert "memorised" in facts.remarks()[0]


def test_the_card_says_what_it_does_not_claim_and_comes_back_whole(leaking: tuple[object, AuditCard]) -> None:
    _, card = leaking
    assert AuditCard.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["guarantee"] == NO_GUARANTEE
    text = card.as_markdown()
    assert NO_GUARANTEE in text and "membership inference was not run" in text and "and 18 more" in text
    assert len(card.lines()) == 3


def test_other_training_data_are_told(splits: Splits, leaking: tuple[DistilledSet, AuditCard]) -> None:
    swapped = Splits(splits.test, splits.train, "digits")
    card = audit(leaking[0], swapped, network=NETWORK, device="cpu")
    assert any("distilled from other images" in note for note in card.notes)
    assert not any("distilled from other images" in note for note in leaking[1].notes)
    assert any("the smallest of 3 counts 3 times" in note for note in leaking[1].notes)


def test_of_a_foreign_set_it_is_said_that_nobody_knows(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = torch.cat([members[:4] for members in splits.train.class_indices])
    torch.save([splits.train.images[chosen].float() / 255, splits.train.labels[chosen]], tmp_path / "their.pt")
    small = attar.import_set(tmp_path / "their.pt", data=splits)
    monkeypatch.setattr("attar.studies.audit.picture.MOST_ROWS", 4)
    monkeypatch.setattr("attar.studies.audit.neighbours.BLOCK_VALUES", 64 * 7)
    card = audit(small, splits, network=NETWORK, device="cpu", picture=tmp_path / "near.png")
    assert [copy.index for copy in card.found()] == chosen.tolist()
    assert any("does not say which images" in note for note in card.notes)
    assert not any("distilled from other images" in note for note in card.notes)
    with Image.open(tmp_path / "near.png") as few:
        height = few.height
    monkeypatch.setattr("attar.studies.audit.picture.MOST_ROWS", 10)
    audit(small, splits, network=NETWORK, device="cpu", picture=tmp_path / "near.png", overwrite=True)
    with Image.open(tmp_path / "near.png") as more:
        assert more.height > 1.5 * height


def test_the_command_writes_card_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    attar.distill("digits", "random", "1ipc", out="small.attar.safetensors", device="cpu")
    line = ["audit", "small.attar.safetensors", "--data", "digits", "--network", NETWORK, "--quiet"]
    told = ["--out", "card.json", "--picture", "near.png", "--write", "audited.attar.safetensors"]
    assert main([*line, *told]) == 0
    assert "10 of 10 distilled images are copies" in " ".join(capsys.readouterr().out.split())
    card = AuditCard.from_json(Path("card.json").read_text())
    assert len(card.found()) == 10 and card.name == "small"
    before, after = (attar.load(f"{name}.attar.safetensors") for name in ("small", "audited"))
    assert after.manifest.privacy == card.statement and "10 of 10 distilled images are copies" in card.statement
    assert before.fingerprint == after.fingerprint and before.manifest.privacy != after.manifest.privacy
    with Image.open("near.png") as picture:
        assert picture.width > 300 and len(np.unique(np.asarray(picture))) > 10
    assert main([*line, "--picture", "near.png"]) == 2
    assert main([*line, "--out", "card.txt"]) == 2
    assert main([*line, "--picture", "one.png", "--write", "./one.png"]) == 2 and not Path("one.png").exists()
    assert main([*line, "--shadows", "2"]) == 2
    assert main([*line, "--engine", "ray"]) == 2
    told = capsys.readouterr().err.splitlines()
    wanted = ("near.png exists", "card.txt", "name one file twice", "at least 4", "--shadows")
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 5


def test_nothing_is_computed_for_a_picture_that_cannot_be_written(
    splits: Splits, leaking: tuple[DistilledSet, AuditCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "nearest", lambda *_: pytest.fail("neighbours were looked for"))
    with pytest.raises(InputError, match=r"near\.jpg"):
        audit(leaking[0], splits, picture="near.jpg", device="cpu")
    with pytest.raises(InputError, match="an audit has one network and was given"):
        audit(leaking[0], splits, network="all", device="cpu")
