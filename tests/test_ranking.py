"""Ranking candidates on a set and on all data: correlations, intervals, what is trained, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import attar
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.cli import main
from attar.data.image_set import Splits
from attar.evaluation import measuring
from attar.evaluation.protocol import Protocol, RateSearch, protocol
from attar.evaluation.rows import DISTILLED, FULL
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from attar.studies.ranking import agreement
from attar.studies.ranking.agreement import Draws, against_itself, interval, kendall, spearman
from attar.studies.ranking.card import RankCard, Scores, agreements
from attar.studies.ranking.ranking import changed, rank
from small_sets import build, digit_images

NETWORKS = ("convnet:d1w4", "convnet:d1w8")
SETTINGS = ({"learning_rate": 0.1}, {"learning_rate": 0.001, "weight_decay": 0.0})
FEW = st.lists(st.integers(0, 5), min_size=6, max_size=6)


@given(FEW, FEW)
@settings(max_examples=60, deadline=None)
def test_correlations_are_those_of_scipy_with_ties(first: list[int], second: list[int]) -> None:
    from scipy.stats import kendalltau, spearmanr

    x, y = torch.tensor([first, second], dtype=torch.float64)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(x, y).isnan() and kendall(x, y).isnan()
        return
    assert float(spearman(x, y)) == pytest.approx(float(spearmanr(first, second).statistic))
    assert float(kendall(x, y)) == pytest.approx(float(kendalltau(first, second).statistic))


def test_bootstrap_means_are_those_of_a_loop() -> None:
    table = torch.randn(5, 3, generator=generator(0, "table"), dtype=torch.float64)
    draws = Draws.of(5, 3)
    means = draws.means(table)
    for draw in (0, 7, 1999):
        chosen = table[draws.candidates[draw]][:, draws.seeds[draw]]
        torch.testing.assert_close(means[draw], chosen.mean(1))


def test_the_interval_is_of_percentiles_of_what_is_defined() -> None:
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert interval(values) == (pytest.approx(0.025), pytest.approx(0.975))
    some = torch.cat([values, torch.full((900,), torch.nan, dtype=torch.float64)])
    assert interval(some) == interval(values)
    assert interval(torch.cat([some, some[-200:]])) == (None, None)


def scores(name: str, table: Any) -> Scores:
    return Scores(name=name, num_items=10, num_bytes=100, accuracies=tuple(map(tuple, table)))


def test_a_set_agrees_with_itself_exactly_and_with_its_reverse_not_at_all() -> None:
    table = (10 * torch.randn(8, 3, generator=generator(1, "table"))).tolist()
    turned = [[-value for value in row] for row in table]
    same, reverse = agreements([scores(FULL, table), scores(DISTILLED, table), scores("reverse", turned)])
    assert (same.spearman.value, same.kendall.value, same.lost) == (pytest.approx(1), pytest.approx(1), 0)
    assert same.spearman.low == pytest.approx(1) and same.less is None
    assert (reverse.spearman.value, reverse.kendall.value) == (pytest.approx(-1), pytest.approx(-1))
    means = [sum(row) / 3 for row in table]
    assert reverse.lost == pytest.approx(max(means) - min(means))
    assert reverse.less is not None and reverse.less.value == pytest.approx(2)


def test_items_that_tell_no_candidate_from_another_have_no_correlation() -> None:
    table = [[1.0], [2.0], [3.0]]
    [flat] = agreements([scores(FULL, table), scores(DISTILLED, [[5.0]] * 3)])
    assert (flat.spearman.value, flat.spearman.low, flat.spearman.text) == (None, None, "undefined")
    assert flat.choice == 0 and flat.lost == 2


def test_one_seed_is_held_against_the_others() -> None:
    assert against_itself([[1.0], [2.0], [3.0]]) is None
    assert against_itself([[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]) == (pytest.approx(1), pytest.approx(1))
    rho, _ = against_itself([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]) or (0, 0)
    assert rho == pytest.approx(-1)


@pytest.fixture(scope="module")
def splits() -> Splits:
    images = digit_images()
    train = torch.cat([members[:30] for members in images.class_indices])
    test = torch.cat([members[30:50] for members in images.class_indices])
    return Splits(images.select(train), images.select(test), "digits")


@pytest.fixture(scope="module")
def short() -> Protocol:
    chosen = protocol("quick")
    few = {"epochs": 10, "min_steps": None, "max_steps": 10, "learning_rate": 0.05}
    return chosen.model_copy(update={"training": TrainingConfig.model_validate({**dict(chosen.training), **few})})


@pytest.fixture(scope="module")
def small(splits: Splits) -> DistilledSet:
    return attar.distill(splits, "random", "2ipc", device="cpu")


def ranked(small: DistilledSet, splits: Splits, short: Protocol, **changes: Any) -> RankCard:
    usual: dict[str, Any] = {"networks": NETWORKS, "settings": SETTINGS, "seeds": 2, "device": "cpu"}
    return rank(small, splits, short, **{**usual, **changes})


def test_every_candidate_is_trained_as_evaluate_trains_it(
    small: DistilledSet, splits: Splits, short: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ranked(small, splits, short)
    assert [each.name for each in card.candidates] == [
        f"{network}, {', '.join(f'{key}={value}' for key, value in each.items())}"
        for each in SETTINGS
        for network in NETWORKS
    ]
    assert [each.name for each in card.scores][:3] == [FULL, DISTILLED, "random images"]
    monkeypatch.setattr(measuring, "train_networks", lambda *_, **__: pytest.fail("trained though it is cached"))
    for place, settings_ in enumerate(SETTINGS):
        known = attar.evaluate(
            small,
            splits,
            changed(short, settings_),
            networks=NETWORKS,
            seeds=2,
            baselines=["random", "full"],
            device="cpu",
        )
        for number, network in enumerate(NETWORKS):
            rows = [row for row in known.rows if row.network.name == network]
            for row in rows:
                own = next(each for each in card.scores if each.name == row.name)
                assert own.accuracies[len(NETWORKS) * place + number] == row.accuracies
    assert ranked(small, splits, short) == card
    assert RankCard.from_json(card.to_json()) == card
    assert "lost by it" in card.as_markdown() and len(card.score_lines()) == 4


def test_all_data_against_itself_is_one(splits: Splits, short: Protocol) -> None:
    """A set that holds every training image once, unrounded, is all real images."""
    count = int(torch.bincount(splits.train.labels).min())
    whole = build(splits.train, "pixels", "float32", count)
    ordered = splits.train.select(torch.cat([members[:count] for members in splits.train.class_indices]))
    same = Splits(ordered, splits.test, "digits")
    card = ranked(whole, same, short, seeds=1)
    assert card.scores[0].accuracies == card.scores[1].accuracies
    assert card.agreement().spearman.value == pytest.approx(1)
    assert card.agreement().lost == 0


def test_another_reference_trains_all_images_alone_otherwise(
    small: DistilledSet, splits: Splits, short: Protocol
) -> None:
    longer = changed(short, {"epochs": 3, "max_steps": 30}).model_copy(update={"name": "longer"})
    card = ranked(small, splits, short, reference=longer, settings=None, networks=[*NETWORKS, "convnet:d1w2"], seeds=1)
    plain = ranked(small, splits, short, settings=None, networks=[*NETWORKS, "convnet:d1w2"], seeds=1)
    assert card.scores[0].accuracies != plain.scores[0].accuracies
    assert card.scores[1:] == plain.scores[1:]
    assert "longer v1" in card.title and card.itself is None
    assert any("--reference" in note for note in plain.notes) and not any("--reference" in note for note in card.notes)


def test_correlations_of_many_candidates_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    seen: list[int] = []

    def measure(one: Tensor, other: Tensor) -> Tensor:
        seen.append(len(one))
        return kendall(one, other)

    monkeypatch.setattr(agreement, "MOST_PAIRS", 50)
    assert torch.equal(agreement.over_draws(measure, first, second), kendall(first, second)) and max(seen) == 2


def test_a_search_for_rates_is_made_for_all_real_images_too(
    small: DistilledSet, splits: Splits, short: Protocol
) -> None:
    rates = RateSearch(learning_rates=(1e-6, 0.05), validation_share=0.2)
    searching = short.model_copy(update={"rate_search": rates})
    few = {"epochs": 5, "max_steps": 5}
    training = TrainingConfig.model_validate({**dict(short.training), **few})
    searching = searching.model_copy(update={"training": training})
    card = ranked(small, splits, searching, settings=[{"momentum": 0.9}, {"momentum": 0.0}], seeds=1)
    for place, settings_ in enumerate(({"momentum": 0.9}, {"momentum": 0.0})):
        known = attar.evaluate(
            small, splits, changed(searching, settings_), networks=NETWORKS, seeds=1, baselines=["full"], device="cpu"
        )
        for number, network in enumerate(NETWORKS):
            row = next(row for row in known.rows if row.name == FULL and row.network.name == network)
            assert card.scores[0].accuracies[len(NETWORKS) * place + number] == row.accuracies
    assert not any("the best rate of" in each.note for each in card.scores), "a candidate's rate is not all candidates'"
    assert any(note.startswith("learning rates: on each network") for note in card.notes)


def test_settings_that_mean_the_same_training_are_refused(small: DistilledSet, splits: Splits, short: Protocol) -> None:
    with pytest.raises(InputError, match=r"settings {} and {\"learning_rate\": 0.05} mean the same training"):
        ranked(small, splits, short, settings=[{}, {"momentum": 0.5}, {"learning_rate": 0.05}])


@pytest.mark.parametrize("place", ["protocol", "reference"])
def test_a_rate_that_a_search_would_replace_is_refused(
    small: DistilledSet, splits: Splits, short: Protocol, place: str
) -> None:
    searching = short.model_copy(update={"rate_search": RateSearch(learning_rates=(0.01, 0.05))})
    chosen, reference = (searching, None) if place == "protocol" else (short, searching)
    with pytest.raises(InputError, match="searches every candidate's learning rate"):
        ranked(small, splits, chosen, reference=reference, settings=[{"learning_rate": 0.1}])


@pytest.mark.parametrize("place", ["protocol", "reference"])
def test_a_protocol_of_other_sizes_is_refused(small: DistilledSet, splits: Splits, short: Protocol, place: str) -> None:
    large = short.model_copy(update={"name": "large", "smallest_side": 64, "labels": ("soft",)})
    if place == "protocol":
        large = large.model_copy(update={"labels": short.labels})
    chosen, reference = (large, None) if place == "protocol" else (short, large)
    with pytest.raises(InputError, match="protocol large v1 is for images of at least 64 pixels and these have 8 x 8"):
        ranked(small, splits, chosen, reference=reference, seeds=1)


def test_what_cannot_be_ranked_is_refused_before_any_work(small: DistilledSet, splits: Splits, short: Protocol) -> None:
    with pytest.raises(InputError, match="2 candidates were given, and a ranking needs at least 3"):
        ranked(small, splits, short, settings=None)
    with pytest.raises(InputError, match="1 candidate was given"):
        ranked(
            small, splits, short, settings=[{"momentum": 0.5}, {"momentum": 0.5}], networks=["convnet", "convnet:d1"]
        )
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        ranked(small, splits, short, settings=[{"learning_rat": 0.1}])
    with pytest.raises(InputError, match="momentum"):
        ranked(small, splits, short, settings=[{"momentum": "high"}])
    with pytest.raises(InputError, match="must be a list of objects"):
        ranked(small, splits, short, settings=[0.1, 0.2, 0.3])
    learned = small.replace(learned={"student_rate": 0.02})
    with pytest.raises(InputError, match="has no effect"):
        ranked(learned, splits, short.model_copy(update={"use_learned_rate": True}))


def test_the_command_writes_tables_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short: Protocol
) -> None:
    monkeypatch.chdir(tmp_path)
    attar.distill("digits", "random", "1ipc", out="small.attar.safetensors", device="cpu")
    Path("short.json").write_text(changed(short, {"max_steps": 2}).model_dump_json())
    Path("rates.json").write_text(json.dumps([{"learning_rate": rate} for rate in (0.1, 0.01, 0.001)]))
    line = ["rank", "small.attar.safetensors", "--data", "digits", "--networks", "convnet:d1w4", "--seeds", "1"]
    line += ["--protocol", "short.json", "--quiet"]
    assert main([*line, "--settings", "rates.json", "--out", "rank.json", "--plot", "rank.png"]) == 0
    out = capsys.readouterr().out
    assert "agreement with the ranking on all real images" in out and "learning_rate=0.001" in out
    assert len(RankCard.from_json(Path("rank.json").read_text()).candidates) == 3
    with Image.open("rank.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 10
    assert main([*line, "--settings", "rates.json", "--plot", "rank.png"]) == 2
    assert main([*line, "--settings", "nothing.json"]) == 2
    assert main([*line, "--settings", '[{"learning_rate": 0.1}]']) == 2
    assert main([*line, "--settings", "short.json"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [
        each in line for each, line in zip(("exists", "no JSON list", "at least 3", "dict"), told, strict=True)
    ] == [True] * 4
