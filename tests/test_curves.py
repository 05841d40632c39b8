"""Accuracy while networks train: it changes no result, chooses nothing, and is kept like one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.base.engines.engine import Engine, Local
from attar.base.errors import InputError
from attar.base.files import cache_directory
from attar.cli import main
from attar.data.augmentation import DsaConfig
from attar.data.image_set import Splits
from attar.data.sources import load_images
from attar.evaluation import measuring
from attar.evaluation.compare import compare
from attar.evaluation.evaluate import evaluate
from attar.evaluation.measuring import MOST_POINTS, curve_epochs
from attar.evaluation.protocol import RateSearch
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import Scorecard
from attar.models.networks.network import NetworkConfig
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.models.training.snapshots import Snapshot
from attar.models.training.testing import test_network as accuracy_of
from attar.sets.distilled import DistilledSet
from attar.studies.leaderboard.record import record_of
from small_protocols import tiny
from small_sets import build

NETWORKS = (NetworkConfig(depth=1, width=4), NetworkConfig(depth=1, width=4, norm="batch"))
TINY = tiny(
    networks=NETWORKS,
    training=TrainingConfig(
        epochs=14, batch_size=16, learning_rate=0.05, augmentation=DsaConfig(strategy="crop"), max_steps=40
    ),
)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_images("digits")


@pytest.fixture(scope="module")
def small(digits: Splits) -> DistilledSet:
    return build(digits.train)


@pytest.fixture(scope="module")
def cards(digits: Splits, small: DistilledSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorecard, Scorecard]:
    """Without curves, and with them, from nothing."""
    arguments: dict[str, Any] = {"baselines": ("random",), "cache": False}
    return evaluate(small, digits, TINY, **arguments), evaluate(small, digits, TINY, curves=True, **arguments)


def without_curves(row: Row) -> Row:
    return row.model_copy(update={"curve_epochs": (), "curves": (), "minutes": 0.0, "training_minutes": None})


@given(st.integers(1, 3000))
def test_epochs_are_few_evenly_spaced_and_end_with_the_last(num_epochs: int) -> None:
    epochs = curve_epochs(num_epochs)
    assert len(epochs) == min(MOST_POINTS, num_epochs) and epochs[-1] == num_epochs and epochs[0] >= 1
    steps = {late - early for early, late in zip((0, *epochs), epochs, strict=False)}
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1


def test_the_final_accuracy_is_the_same_with_curves_and_without(cards: tuple[Scorecard, Scorecard]) -> None:
    plain, curved = cards
    assert [without_curves(row) for row in curved.rows] == [without_curves(row) for row in plain.rows]
    assert all(row.curves == () for row in plain.rows) and plain.differences == curved.differences
    assert plain.as_markdown().splitlines()[:3] == curved.as_markdown().splitlines()[:3]
    for row in curved.rows:
        assert row.curve_epochs == curve_epochs(row.num_epochs or 0)
        assert tuple(curve[-1] for curve in row.curves) == row.accuracies
        assert all(len(set(curve)) > 1 for curve in row.curves)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_each_point_is_what_a_training_of_so_many_epochs_gives(
    digits: Splits, small: DistilledSet, cards: tuple[Scorecard, Scorecard], norm: str
) -> None:
    """At a constant rate a shorter training is a longer one's beginning."""
    training = TrainingConfig(epochs=5, batch_size=16, learning_rate=0.05, schedule="constant")
    network = NetworkConfig(depth=1, width=4, norm=norm)
    steady = TINY.model_copy(update={"networks": (network,), "training": training})
    row = evaluate(small, digits, steady, seeds=(3,), baselines=False, curves=True, cache=False).row()
    assert row.curve_epochs == (1, 2, 3, 4, 5)
    items = small.training_items()
    for epoch, percent in zip(row.curve_epochs, row.curves[0], strict=True):
        shorter = training.model_copy(update={"epochs": epoch})
        (trained,) = train_networks(network, items, 10, shorter, [3])
        found = accuracy_of(trained, lambda images: small.preprocess.encode(images.float() / 255), digits.test)
        assert 100 * found.accuracy == pytest.approx(percent, abs=1e-9)


def test_the_cache_answers_for_what_it_holds_alone(
    digits: Splits, small: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    usual = measuring.train_networks

    def counting(config: Any, items: Any, classes: int, training: Any, seeds: Any, **named: Any) -> Any:
        trained.extend(seeds)
        return usual(config, items, classes, training, seeds, **named)

    monkeypatch.setattr(measuring, "train_networks", counting)

    def card(**changes: Any) -> Row:
        trained.clear()
        return evaluate(small, digits, TINY, networks=NETWORKS[:1], baselines=False, **changes).row()

    plain = card()
    assert trained == [0, 1] and not plain.curves
    curved = card(curves=True)
    assert trained == [0, 1] and curved.accuracies == plain.accuracies and len(curved.curves) == 2
    assert card(curves=True).curves == curved.curves and trained == []
    again = card()
    assert trained == [] and again.cached == 2 and (again.curves, again.curve_epochs) == ((), ())
    assert card(curves=True).curves == curved.curves and trained == [], "a card without curves does not forget them"
    kept = sorted(cache_directory("scores").iterdir())
    told = json.loads(kept[0].read_text())
    kept[0].write_text(json.dumps(told | {"curve": told["curve"][1:]}))
    assert card(curves=True).curves == curved.curves and len(trained) == 1, "a damaged curve counts as absent"


class Elsewhere(Engine):
    """Jobs that are sent as an engine sends them."""

    def results(self, work: Any, jobs: Any, shared: Any, progress: Any, names: Any = ()) -> Any:
        import pickle

        yield from Local().results(work, [pickle.loads(pickle.dumps(job)) for job in jobs], shared, progress)


def test_an_engine_gives_the_same_curves(
    digits: Splits, small: DistilledSet, cards: tuple[Scorecard, Scorecard]
) -> None:
    card = evaluate(small, digits, TINY, baselines=("random",), curves=True, engine=Elsewhere(), cache=False)
    assert [row.curves for row in card.rows] == [row.curves for row in cards[1].rows]


def test_rates_are_not_compared_by_curves(digits: Splits, small: DistilledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[bool] = []
    usual = measuring.train_networks

    def noting(*arguments: Any, **named: Any) -> Any:
        watched.append(named["callback"] is not None)
        return usual(*arguments, **named)

    monkeypatch.setattr(measuring, "train_networks", noting)
    searching = TINY.model_copy(update={"rate_search": RateSearch(learning_rates=(0.01, 0.05))})
    evaluate(small, digits, searching, networks=NETWORKS[:1], seeds=1, baselines=False, curves=True, cache=False)
    assert watched == [False, False, True]


@pytest.mark.parametrize("mode", ["looped", "stacked"])
def test_only_the_epochs_asked_for_are_seen_and_networks_come_back_as_they_were(mode: Any) -> None:
    from test_snapshots import NETWORK, toy_items

    seen: list[Snapshot] = []
    settings = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, schedule="constant")
    arguments = (NETWORK, toy_items(), 3)
    train_networks(*arguments, settings, [3, 4], mode=mode, callback=seen.append, callback_epochs=(2,))
    assert {snapshot.epoch for snapshot in seen} == {2}
    found = [network for snapshot in seen for network in snapshot.networks(NETWORK, (2, 8, 8), 3, "cpu")]
    expected = train_networks(*arguments, settings.model_copy(update={"epochs": 2}), [3, 4], mode=mode)
    assert [seed for snapshot in seen for seed in snapshot.seeds] == [3, 4]
    for one, other in zip(found, expected, strict=True):
        assert not one.training
        for name, value in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: row["curves"][0].__setitem__(-1, 1.0), "do not end in the accuracies"),
        (lambda row: row["curves"].pop(), "one of .* points for each of the seeds"),
        (lambda row: row["curve_epochs"].__setitem__(0, 5000), "not ascending"),
        (lambda row: row["curve_epochs"].clear(), "not ascending"),
    ],
)
def test_a_card_whose_curves_are_not_those_of_its_rows_is_refused(
    cards: tuple[Scorecard, Scorecard], change: Callable[[Any], object], fault: str
) -> None:
    assert Scorecard.from_json(cards[1].to_json()) == cards[1]
    told = json.loads(cards[1].to_json())
    change(told["rows"][0])
    with pytest.raises(InputError, match=fault):
        Scorecard.from_json(json.dumps(told))


def test_equal_scores_are_recorded_alike_with_curves_or_without(cards: tuple[Scorecard, Scorecard]) -> None:
    facts: dict[str, Any] = {"commit": "0" * 40, "command": ["attar"], "fingerprint": "0" * 64}
    plain, curved = (record_of(card, **facts).card for card in cards)
    assert [without_curves(row) for row in plain.rows] == [without_curves(row) for row in curved.rows]
    assert not any(row.curves for row in curved.rows)
    assert [bool(row.per_class) for row in curved.rows] == [True, False] * 2


def test_every_row_has_its_accuracies_class_by_class(
    cards: tuple[Scorecard, Scorecard], digits: Splits, small: DistilledSet
) -> None:
    for row in cards[0].rows:
        counts = [len(members) for members in digits.test.class_indices]
        shares = zip(row.per_class, counts, strict=True)
        whole = sum(percent * count for percent, count in shares if percent is not None) / sum(counts)
        assert whole == pytest.approx(row.mean)
    assert [len(row.confusion) for row in cards[0].rows] == [10, 0] * 2
    assert cards[0].set_fingerprint == small.fingerprint


def test_the_commands_ask_for_curves_where_they_are_kept(
    digits: Splits, small: DistilledSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path / "a.attar.safetensors")
    (tmp_path / "tiny.json").write_text(TINY.model_dump_json())
    line = [str(tmp_path / "a.attar.safetensors"), "--data", "digits", "--protocol", str(tmp_path / "tiny.json")]
    line += ["--seeds", "1", "--no-baselines", "--networks", "convnet:d1w4", "-q", "--curves"]
    assert main(["evaluate", *line]) == 2 and "--curves has no effect without --json" in capsys.readouterr().err
    assert main(["compare", *line, "--out", str(tmp_path / "x.png")]) == 2
    assert "--curves has no effect without --out FILE.json" in capsys.readouterr().err
    assert main(["evaluate", *line, "--json", str(tmp_path / "card.json")]) == 0
    card = Scorecard.from_json((tmp_path / "card.json").read_text())
    assert len(card.row().curves) == 1
    comparison = compare([small], digits, TINY, networks="convnet:d1w4", seeds=1, baselines=False, curves=True)
    assert comparison.cards[0].row().curves == card.row().curves
