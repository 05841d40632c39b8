"""What a card adds to accuracies: coresets and JPEG at equal bytes, variants, DD-Ranking, unseen networks, words."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar.base.errors import InputError
from attar.cli.evaluating import Judging
from attar.data.augmentation import DsaConfig
from attar.data.image_set import Splits
from attar.evaluation import baselines, difficulty, jpeg, measuring
from attar.evaluation.baselines import BASELINES, Occasion, baseline, baseline_kinds, choose
from attar.evaluation.dd_ranking import normalised, ranking_of
from attar.evaluation.difficulty import extremes, mean_errors
from attar.evaluation.evaluate import evaluate
from attar.evaluation.jpeg import ABBREVIATED, TABLES_ONLY, decoded, fitting_draws, jpeg_draws, jpeg_stream
from attar.evaluation.protocol import RateSearch
from attar.evaluation.rows import DISTILLED, NAMES, Row
from attar.evaluation.scorecard import Difference, Scorecard
from attar.evaluation.statistics import mean_and_std
from attar.evaluation.unseen import networks_of, unseen_means
from attar.evaluation.variants import candidates
from attar.methods.recipes import recipe
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import network_from_text
from attar.models.observers.observer import Observer
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.sets.class_columns import in_order_of
from attar.sets.relabelling import with_regions
from reference import ranking as reference
from small_protocols import tiny
from small_regions import halves, mosaic, observer, settings, trained
from small_sets import CLASSES, build, digit_images, first_items

CONVNET, RESNET, VIT = NetworkConfig(), NetworkConfig(kind="resnet18"), NetworkConfig(kind="vit")
AUGMENTED = TrainingConfig(epochs=2, batch_size=64, learning_rate=0.05, augmentation=DsaConfig(strategy="crop"))
TINY = tiny(training=AUGMENTED)


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Ten images of each digit to train on, ten others to test on."""
    images = digit_images()
    first = first_items(images, 20)
    train = torch.arange(200).view(10, 20)[:, :10].flatten()
    test = torch.arange(200).view(10, 20)[:, 10:].flatten()
    return Splits(images.select(first[train]), images.select(first[test]), "digits")


def row(name: str, *accuracies: float, network: NetworkConfig = CONVNET) -> Row:
    mean, std = mean_and_std(accuracies)
    seeds = tuple(range(len(accuracies)))
    return Row(name=name, network=network, seeds=seeds, accuracies=accuracies, mean=mean, std=std)


class Fixed:
    """A scorer whose logits are known."""

    def __init__(self, seed: int) -> None:
        self._weights = torch.randn(64, 10, generator=torch.Generator().manual_seed(seed))

    def logits(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self._weights


def test_el2n_is_the_mean_length_of_the_error_vectors(splits: Splits) -> None:
    scorers = [Fixed(seed) for seed in range(3)]
    logits = [scorer.logits(splits.train.images.float() / 255).numpy() for scorer in scorers]
    wanted = reference.el2n(logits, splits.train.labels.numpy())
    assert mean_errors(scorers, splits.train).numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_el2n_coresets_are_the_extremes_of_each_class(splits: Splits) -> None:
    scores = torch.rand(len(splits.train), generator=torch.Generator().manual_seed(0)).double()
    for hardest in (True, False):
        chosen = extremes(scores, splits.train, 3, hardest)
        assert splits.train.labels[chosen].tolist() == [label for label in range(10) for _ in range(3)]
        for label, members in enumerate(splits.train.class_indices):
            rest = [index for index in members.tolist() if index not in chosen.tolist()]
            own = scores[chosen[3 * label : 3 * label + 3]]
            assert (own.min() >= scores[rest].max()) if hardest else (own.max() <= scores[rest].min())


def test_el2n_networks_see_the_training_images_alone(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def observer(config: Any, train: Any, device: Any, progress: Any) -> Fixed:
        seen.append((config.seed, train.fingerprint))
        return Fixed(config.seed)

    monkeypatch.setattr(difficulty, "observer_for", observer)
    card = evaluate(build(splits.train), splits, TINY, baselines=("el2n", "el2n-easy"), cache=False)
    assert [each.name for each in card.rows] == ["distilled", "EL2N images", "EL2N images, the easiest"]
    assert set(seen) == {(seed, splits.train.fingerprint) for seed in range(3)}
    assert len({each.num_bytes for each in card.rows[1:]}) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stream_and_the_shared_tables_are_the_whole_jpeg(channels: int, splits: Splits) -> None:
    image = splits.train.images[7].repeat(channels, 2, 2)
    for quality in jpeg.QUALITIES:
        whole = np.array(Image.open(io.BytesIO(jpeg_stream(image, quality, 0))))
        tables, stream = jpeg_stream(image, quality, TABLES_ONLY), jpeg_stream(image, quality, ABBREVIATED)
        again = decoded(tables, stream)
        assert again.shape == image.shape
        assert np.array_equal(again[0].numpy() if channels == 1 else again.permute(1, 2, 0).numpy(), whole)
        assert len(stream) < len(jpeg_stream(image, quality, 0)) - 200, "the tables are not repeated"


def test_jpeg_rows_take_no_more_than_the_file(splits: Splits) -> None:
    small = build(splits.train, "pixels", count=6)
    candidate = baseline("jpeg", small, splits.train, Occasion(seeds=(0, 1, 2)))
    assert candidate is not None and candidate.absent is None
    assert candidate.num_bytes is not None and 0.8 * small.file_bytes < candidate.num_bytes <= small.file_bytes
    draws = jpeg_draws(splits.train, small.file_bytes)
    assert draws is not None and draws.quality == 75 and f"quality {draws.quality}" in candidate.note
    taken = []
    for seed in range(3):
        found = draws.drawn(seed)
        assert found is not None
        chosen, streams = found
        taken.append(len(draws.tables) + sum(len(stream) for stream in streams))
        inputs, labels = candidate.items(seed, torch.device("cpu")).epoch(0, torch.Generator())
        assert labels.tolist() == [label for label in range(10) for _ in range(draws.count)]
        real = small.preprocess.encode(splits.train.images[chosen].float() / 255)
        assert 0 < float((inputs - real).abs().mean()) < 0.25, "nearly the images, but not quite"
    assert max(taken) == candidate.num_bytes


def test_the_quality_falls_where_no_image_of_each_class_fits(splits: Splits) -> None:
    def needs(quality: int) -> int:
        sizes = [len(jpeg_stream(image, quality)) for image in splits.train.images]
        return len(jpeg_stream(splits.train.images[0], quality, TABLES_ONLY)) + sum(sizes) // 10 + 1

    for quality, worse in ((75, 50), (50, 25)):
        assert (found := jpeg_draws(splits.train, needs(quality))) is not None and found.quality == quality
        assert (found := jpeg_draws(splits.train, needs(quality) - 2)) is not None and found.quality == worse
    assert jpeg_draws(splits.train, needs(25) - 2) is None


def test_the_jpeg_row_is_absent_where_nothing_fits(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "jpeg_draws", lambda train, num_bytes: None)
    candidate = baseline("jpeg", build(splits.train), splits.train)
    assert candidate is not None and "no JPEG image of each class" in (candidate.absent or "")


def test_where_a_seeds_draws_do_not_fit_all_seeds_have_fewer_images(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that three images of each class fit in on average, which about half of the draws do."""
    sizes = [len(jpeg_stream(image, 75)) for image in splits.train.images]
    num_bytes = len(jpeg_stream(splits.train.images[0], 75, TABLES_ONLY)) + 3 * sum(sizes) // 10 + 1
    monkeypatch.setattr(jpeg, "DRAWS", 1)
    hoped, seeds = jpeg_draws(splits.train, num_bytes), tuple(range(8))
    assert hoped is not None and hoped.count == 3
    assert any(hoped.drawn(seed) is None for seed in seeds), "else this test shows nothing"
    found = fitting_draws(splits.train, num_bytes, seeds)
    assert found is not None and (found[0].count, found[0].quality) == (2, 75) and tuple(found[1]) == seeds
    assert all(found[0].num_bytes_of(streams) <= num_bytes for _, streams in found[1].values())
    monkeypatch.setattr(jpeg, "DRAWS", 0)
    assert fitting_draws(splits.train, num_bytes, seeds) is None


def test_rates_of_jpeg_rows_are_searched_whatever_the_seeds(splits: Splits) -> None:
    """The search has a seed of its own, for which images must be drawn too."""
    searching = TINY.model_copy(update={"rate_search": RateSearch(learning_rates=(0.01, 0.05))})
    small = build(splits.train, "pixels", count=6)
    card = evaluate(small, splits, searching, baselines=("jpeg",), seeds=(3,), cache=False)
    assert card.row(NAMES["jpeg"]).mean is not None and "the best rate of" in card.row(NAMES["jpeg"]).note


@pytest.mark.parametrize("kind", ["random", "herding", "k-centre"])
def test_a_class_without_images_gives_none(splits: Splits, kind: str) -> None:
    some = splits.train.select(torch.cat(splits.train.class_indices[:9]))
    preprocess = build(splits.train).preprocess
    chosen = choose(kind, 2, some, preprocess, torch.Generator())
    assert torch.bincount(some.labels[chosen], minlength=10).tolist() == [2] * 9 + [0]


def test_all_images_are_trained_on_alike_batch_by_batch(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    small = build(splits.train)
    once = evaluate(small, splits, TINY, baselines=("full",), cache=False)
    monkeypatch.setattr(baselines, "MOST_VALUES", 100)
    full = baseline("full", small, splits.train)
    assert full is not None and not isinstance(full.items(0, torch.device("cpu")), FixedItems)
    again = evaluate(small, splits, TINY, baselines=("full",), cache=False)
    assert [each.accuracies for each in again.rows] == [each.accuracies for each in once.rows]


def test_images_labelled_alike_have_their_labels_in_the_sets_order(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An observer answers in its own order of the classes; a set whose classes were put into another keeps its own."""
    train, _ = halves()
    preprocess = mosaic().preprocess
    known = Observer(deepcopy(trained()), network_from_text("convnet:d2w16"), preprocess, CLASSES)
    monkeypatch.setattr(baselines, "known_observer", lambda distilled: known)
    made = with_regions(mosaic(), observer(), settings(storage="float16"))
    turned_train = train.with_classes(CLASSES[::-1])
    right, contents = [], []
    for distilled, images in ((made, train), (in_order_of(made, CLASSES[::-1]), turned_train)):
        candidate = baseline("same-labels", distilled, images)
        assert candidate is not None and candidate.absent is None
        _, logits = candidate.items(0, torch.device("cpu")).epoch(0, torch.Generator())
        labels = torch.arange(10).repeat_interleave(len(logits) // 10)
        right.append(float((logits.argmax(1) == labels).double().mean()))
        contents.append(candidate.content(0))
    assert min(right) > 0.3 and len(set(contents)) == 2, right


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, bool]]:
    """Labels, and whether they were augmented, of every training."""
    seen: list[tuple[Tensor, bool]] = []

    def spy(network: Any, items: Any, num_classes: int, training: TrainingConfig, seeds: Any, **more: Any) -> Any:
        augmented = training.augmentation is not None or training.cutmix_probability > 0
        seen.append((items.epoch(0, torch.Generator())[1], augmented))
        return train_networks(network, items, num_classes, training, seeds, **more)

    monkeypatch.setattr(measuring, "train_networks", spy)
    return seen


def test_variants_of_a_softly_labelled_set(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    small = build(splits.train, count=8, soft="float16")
    seen = seen_by(monkeypatch)
    kinds = ("same-labels", "hard-labels", "plain", "random-plain")
    cutmix = TINY.model_copy(update={"training": AUGMENTED.model_copy(update={"cutmix_probability": 0.5})})
    card = evaluate(small, splits, cutmix, seeds=1, baselines=kinds, cache=False)
    assert [each.name for each in card.rows] == [DISTILLED, *(NAMES[kind] for kind in kinds)]
    (own, _), (alike, _), (hard, _), (plain, _), (random_plain, _) = seen
    assert [augmented for _, augmented in seen] == [True, True, True, False, False]
    assert small.soft_labels is not None and torch.equal(own, small.soft_labels) and torch.equal(plain, own)
    assert torch.equal(hard, small.labels) and torch.equal(alike, random_plain)
    each = len(alike) // 10
    assert torch.equal(alike, small.soft_labels.view(10, 8, 10)[:, :each].reshape(-1, 10)), "labels of a class, in turn"
    assert small.codes[0].numel() == 16 and each == max(1, round(8 * 10 * (16 + 10) / (10 * (64 + 10))))
    without = card.row(NAMES["hard-labels"])
    assert card.row().num_bytes is not None and without.num_bytes == card.row().num_bytes - 8 * 10 * 10 * 2
    assert without.paper_bytes == card.storage.paper_bytes - 4 * 8 * 10 * 10


def test_variants_that_there_are_not(splits: Splits) -> None:
    hard = build(splits.train)
    rows = candidates(hard, splits.train, ("hard-labels", "plain", "random-plain"), Occasion(training=AUGMENTED))
    assert [each.name for each in rows] == [DISTILLED, NAMES["plain"], NAMES["random-plain"]]
    bare = AUGMENTED.model_copy(update={"augmentation": None})
    rows = candidates(hard, splits.train, ("plain", "random-plain"), Occasion(training=bare))
    assert all("augments nothing" in (each.absent or "") for each in rows[1:])


def test_a_set_of_regions_can_be_trained_on_with_hard_labels(splits: Splits) -> None:
    regions = with_regions(mosaic(), observer(), settings())
    rows = candidates(regions, splits.train, ("hard-labels", "plain"), Occasion(training=AUGMENTED))
    assert "augmented regions" in (rows[2].absent or "")
    items = rows[1].items(0, torch.device("cpu"))
    inputs, labels = items.epoch(0, torch.Generator())
    assert len(inputs) == items.num_items == rows[1].num_items == len(regions) and torch.equal(labels, regions.labels)
    assert rows[1].num_bytes is not None and rows[1].num_bytes < regions.file_bytes


def test_groups_of_baselines() -> None:
    assert baseline_kinds("all") == BASELINES
    assert baseline_kinds(["usual", "full"])[-1] == "full" and set(baseline_kinds(True)) < set(baseline_kinds("all"))
    assert baseline_kinds(Judging(baselines="coresets").arguments()["baselines"]) == (
        "herding",
        "k-centre",
        "el2n",
        "el2n-easy",
    )
    with pytest.raises(InputError, match="did you mean 'coresets'"):
        baseline_kinds("coreset")


def test_ranking_scores_by_hand() -> None:
    """HLR = 80 - 60, IOR = 60 - 40; without augmentation 10 - 20: LRS of a = 0, ARS of a = .5 20 + .5 (-10)."""
    rows = [
        row(DISTILLED, 59, 61), row(NAMES["random"], 38, 42), row(NAMES["plain"], 9, 11),
        row(NAMES["random-plain"], 20, 20), row(NAMES["full"], 80, 80),
    ]  # fmt: skip
    found = ranking_of(rows, "hard")
    assert found.hard_label_recovery is not None and found.hard_label_recovery.mean == pytest.approx(20)
    assert found.label_robust == pytest.approx(reference.label_robust(80, 60, 60, 40, 0.5)) == pytest.approx(0)
    assert normalised(0) == pytest.approx(reference.normalised(0)) == pytest.approx(0.26894, abs=1e-5)
    assert found.augmentation_robust == pytest.approx(5)
    assert normalised(5) == pytest.approx(reference.normalised(0.05)) == pytest.approx(0.2908, abs=1e-4)
    assert normalised(5, as_percent=True) == pytest.approx(reference.normalised(5)) == pytest.approx(63.0, abs=0.05)
    assert (normalised(100), normalised(-100)) == pytest.approx((1, 0)), "of fractions it lies in [0, 1]"
    assert found.missing == {}


def test_ranking_with_soft_labels_needs_rows_of_its_own() -> None:
    rows = [row(DISTILLED, 60, 60), row(NAMES["random"], 40, 40), row(NAMES["full"], 80, 80)]
    found = ranking_of(rows, "soft")
    assert found.hard_label_recovery is None and found.improvement_over_random is None and found.lines() == []
    assert found.missing["HLR"] == ("hard-labels",) and found.missing["IOR"] == ("same-labels",)
    more = [*rows, row(NAMES["hard-labels"], 50, 50), row(NAMES["same-labels"], 45, 45)]
    found = ranking_of(more, "regions")
    assert found.label_robust == pytest.approx(reference.label_robust(80, 50, 60, 45, 0.5))


def test_what_is_not_computed_names_its_flag(splits: Splits) -> None:
    card = evaluate(build(splits.train), splits, TINY, seeds=1, baselines=("random",), cache=False)
    told = next(remark for remark in card.remarks() if remark.startswith("not computed"))
    assert "share of the full-data accuracy, HLR, LRS, ARS" in told
    assert "--baselines usual,plain,random-plain,full" in told
    assert any(remark.startswith("DD-Ranking on convnet:d1w8: IOR") for remark in card.remarks())
    whole = evaluate(build(splits.train), splits, TINY, seeds=1, baselines="dd-ranking", cache=False)
    assert not any(remark.startswith("not computed") for remark in whole.remarks())
    line = next(remark for remark in whole.remarks() if remark.startswith("DD-Ranking"))
    ranking = whole.ranking()
    assert ranking.label_robust is not None and f"LRS {normalised(ranking.label_robust):.3f} of fractions" in line
    assert Scorecard.from_json(whole.to_json()).remarks() == whole.remarks()


def test_networks_of_recipes() -> None:
    names = {
        name: [each.name for each in networks_of(recipe(name).model_dump())] for name in ("latent-dm", "lic", "d3")
    }
    assert names == {"latent-dm": ["convnet:d1"], "lic": ["convnet:batch"], "d3": ["convnet:w32"]}
    assert networks_of(recipe("random").model_dump()) == ()
    assert networks_of({"objective": {"network": {"kind": "nonsense"}}, "observer": [{"network": 3}]}) == ()


def test_the_mean_over_unseen_networks() -> None:
    """By hand: seed 0 has (10 + 30) / 2, seed 1 (20 + 60) / 2."""
    rows = [
        row(DISTILLED, 90, 91), row(DISTILLED, 10, 20, network=RESNET), row(DISTILLED, 30, 60, network=VIT),
        row("random images", 1, 1), row("random images", 1, 1, network=RESNET),
    ]  # fmt: skip
    [found] = unseen_means(rows, [NetworkConfig(width=32, norm="batch")])
    assert (found.name, found.accuracies, found.networks) == (DISTILLED, (20, 40), (RESNET, VIT))
    assert found.text == "30.0 ± 14.1"
    assert unseen_means(rows, []) == [], "nothing was distilled with: no network is unseen"


def test_a_card_shows_the_mean_over_unseen_networks(splits: Splits) -> None:
    card = evaluate(build(splits.train), splits, TINY, seeds=2, baselines=("random",), cache=False)
    [own, random] = card.rows
    both = [each.model_copy(update={"network": network}) for network in (RESNET, VIT) for each in (own, random)]
    shown = card.model_copy(update={"rows": (*card.rows, *both), "distilled_with": (CONVNET,)})
    last = shown.lines()[-2:]
    assert [cells[:2] for cells in last] == [[DISTILLED, "mean of 2 unseen"], ["random images", "mean of 2 unseen"]]
    assert last[0][5] == own.accuracy_text and last[1][6] == card.differences[0].text
    told = "unseen architectures: resnet18, vit; the set was distilled with networks of kind convnet"
    assert told in shown.remarks() and told not in card.remarks()


def test_noise_is_said_in_words() -> None:
    noise = Difference.between(row(DISTILLED, 50, 60, 70), row("a", 49.0, 62.0, 69.5))
    assert noise.words == noise.verdict == "within noise" and noise.text.endswith("within noise")
    clear = Difference.between(row(DISTILLED, 50, 60, 70), row("b", 40.0, 50.1, 60.1))
    assert clear.words == "better"
    with pytest.raises(ValueError, match="said to be 'better'"):
        Difference(**{**dict(noise), "words": "better"})
    same = Difference.between(row(DISTILLED, 50, 60), row("c", 49.0, 59.0))
    assert same.verdict == "no spread seen: unknown", "two seeds that agree show no spread"


def test_a_card_lists_what_is_noise(splits: Splits) -> None:
    small = build(splits.train, "pixels", "float32")
    card = evaluate(small, splits, TINY, baselines=("random", "herding"), cache=False)
    again = [replace_words(each, "herding" in each.baseline) for each in card.differences]
    told = card.model_copy(update={"differences": tuple(again)}).remarks()
    wanted = "within noise, because the interval contains 0, is the difference from: herding images (convnet:d1w8)"
    assert wanted in told


def replace_words(each: Difference, noise: bool) -> Difference:
    low, high = (-1.0, 1.0) if noise else (1.0, 2.0)
    words = "within noise" if noise else "better"
    mean = (low + high) / 2
    return Difference(network=each.network, baseline=each.baseline, mean=mean, low=low, high=high, words=words)


def test_occasions_reach_the_rows(splits: Splits) -> None:
    """A seed's JPEG images do not depend on which other seeds there are."""
    small = build(splits.train, "pixels", count=6)
    one = baseline("jpeg", small, splits.train, Occasion(seeds=(4,)))
    several = baseline("jpeg", small, splits.train, replace(Occasion(), seeds=(0, 4)))
    assert one is not None and several is not None and one.content(4) == several.content(4)
    ours, theirs = (each.items(4, torch.device("cpu")).epoch(0, torch.Generator())[0] for each in (one, several))
    assert torch.equal(ours, theirs)
