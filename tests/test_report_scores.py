"""Scores on the page of a file: which card is of which set, accuracy while training, and class by class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.base.errors import InputError
from attar.cli import main
from attar.data.image_set import Splits
from attar.data.sources import load_images
from attar.evaluation.compare import compare
from attar.evaluation.evaluate import evaluate
from attar.evaluation.scorecard import Difference, Scorecard
from attar.models.networks.network import NetworkConfig
from attar.report.page import charts
from attar.report.page.charts import AccuracyCurve, curve_chart
from attar.report.page.markup import environment
from attar.report.page.scores import accuracy_curves, against, class_accuracies, score_table, verdict
from attar.report.page.writing import write_page
from attar.sets.distilled import DistilledSet
from report_pages import ATTACKS, TINY, card_file, file
from small_sets import build, digit_images, first_items
from test_report_page import QUICK, Page, parsed, places_in
from test_scorecard import row

FULL_CARD: dict[str, Any] = {"baselines": ("random", "herding", "full"), "name": "codes", "curves": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores")
    splits = load_images("digits")
    made = build(splits.train)
    made.save(file(path, "codes"))
    build(splits.train, count=2).save(file(path, "other"))
    card_file(path, "codes").write_text(evaluate(made, splits, TINY, **FULL_CARD).to_json())
    return path


@pytest.fixture
def card(folder: Path) -> Scorecard:
    return Scorecard.from_json(card_file(folder, "codes").read_text())


def write(folder: Path, tmp_path: Path, card: Scorecard, *names: str, **options: Any) -> Page:
    told = tmp_path / "card.json"
    told.write_text(card.to_json())
    out = tmp_path / "page.html"
    write_page([file(folder, name) for name in names], out, scores=[told], overwrite=True, **options)
    return parsed(out)


# Which set a card is of


def test_a_card_is_of_the_set_whose_content_it_names(folder: Path, tmp_path: Path, card: Scorecard) -> None:
    page = write(folder, tmp_path, card, "other", "codes")
    assert page.text.count("No scorecard was given.") == 1
    assert "changed since" not in page.text
    with pytest.raises(InputError, match=f"judged a set of fingerprint {card.set_fingerprint[:12]}"):
        write(folder, tmp_path, card, "other")
    foreign = card.model_copy(update={"set_fingerprint": "0" * 64})
    with pytest.raises(InputError, match="judged a set of fingerprint 000000000000"):
        write(folder, tmp_path, foreign, "codes")


def test_a_card_stays_that_of_a_set_whose_metadata_were_changed(folder: Path, tmp_path: Path, card: Scorecard) -> None:
    """As `attar audit --write` changes them: the file is another one, what training sees is not."""
    shutil.copy(file(folder, "codes"), file(tmp_path, "codes"))
    known = DistilledSet.load(file(tmp_path, "codes"))
    known.replace(privacy="Audited, and the statement is a longer one now.").save(
        file(tmp_path, "codes"), overwrite=True
    )
    changed = DistilledSet.load(file(tmp_path, "codes"))
    assert changed.file_bytes != known.file_bytes and changed.manifest.content_sha256 != known.manifest.content_sha256
    page = write(tmp_path, tmp_path, card, "codes")
    told = f"which had {known.file_bytes:,} bytes then and has {changed.file_bytes:,} now."
    assert sum(told in text for text in page.texts) == 1


def test_a_set_judged_with_its_classes_in_another_order_is_still_that_set(tmp_path: Path) -> None:
    images = digit_images().select(first_items(digit_images(), 4))
    made = build(images)
    made.save(file(tmp_path, "codes"))
    turned = images.with_classes(images.classes[::-1])
    comparison = compare([made], Splits(turned, turned, "digits"), TINY, baselines=False, seeds=1)
    assert comparison.cards[0].set_fingerprint != made.fingerprint
    page = write(tmp_path, tmp_path, comparison.cards[0], "codes")
    assert "No scorecard was given." not in page.text


def test_sizes_of_a_card_cannot_break_the_page(folder: Path, tmp_path: Path, card: Scorecard) -> None:
    """A card of the same fingerprint may claim any sizes and counts."""
    told = json.loads(card.to_json())
    told["storage"] |= {"file_bytes": 10**400, "paper_bytes": 10**400}
    path, out = tmp_path / "card.json", tmp_path / "page.html"
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match="out of range"):
        write_page([file(folder, "codes")], out, scores=[path])
    told = json.loads(card.to_json())
    told["rows"][0]["confusion"][0][0] = 10**400
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match="out of range"):
        write_page([file(folder, "codes")], out, scores=[path])
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda told: told["rows"][1].update(seeds=[0, 5]), "has other seeds than the card"),
        (lambda told: told["differences"][0].update(mean=50.0), "is not that of the rows"),
        (lambda told: told["differences"][0].update(baseline="nothing"), "is not that of the rows"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    folder: Path, tmp_path: Path, card: Scorecard, change: Any, fault: str
) -> None:
    told = json.loads(card.to_json())
    change(told)
    (tmp_path / "card.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=fault):
        write_page([file(folder, "codes")], tmp_path / "page.html", scores=[tmp_path / "card.json"])


# Accuracy while training


def test_the_page_draws_every_rows_accuracy_against_epochs(folder: Path, tmp_path: Path, card: Scorecard) -> None:
    page = write(folder, tmp_path, card, "codes")
    assert "Accuracy while training" in page.texts
    titles = [text for text in page.texts if text.startswith("Accuracy in percent against epochs: ")]
    assert len(titles) == 1
    for each in card.rows:
        assert f"{each.name} " in titles[0] and f"{each.mean:.1f} after {each.curve_epochs[-1]:,}" in titles[0]
    bands = [attributes for tag, attributes in page.tags if tag == "use" and "fill-opacity" in attributes]
    assert len(bands) == len(card.rows)
    assert any("What counts is the last point of each row" in text for text in page.texts)
    rows = tuple(each.model_copy(update={"curves": (), "curve_epochs": ()}) for each in card.rows)
    without = write(folder, tmp_path, card.model_copy(update={"rows": rows}), "codes")
    assert sum("has no accuracies epoch by epoch" in text for text in without.texts) == 1
    assert "Accuracy while training" not in without.texts


PERCENTS = st.floats(0, 100)


@settings(max_examples=15, deadline=None, phases=QUICK)
@given(st.data(), st.integers(1, 5), st.integers(1, 12), st.floats(0.01, 50))
def test_no_curve_lies_outside_its_chart(data: Any, num_rows: int, num_points: int, chance: float) -> None:
    curves = []
    for number in range(num_rows):
        epochs = data.draw(st.lists(st.integers(1, 2**50), min_size=num_points, max_size=num_points, unique=True))
        means, stds = (data.draw(st.lists(PERCENTS, min_size=num_points, max_size=num_points)) for _ in range(2))
        spread = tuple(stds) if data.draw(st.booleans()) else None
        curves.append(AccuracyCurve(f"row {number}", tuple(sorted(epochs)), tuple(means), spread, number > 0))
    places = places_in(curve_chart(curves, chance, "x").svg)
    assert len(places) > num_rows * num_points
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)


# Class by class


def test_classes_are_compared_with_the_baseline_that_is_asked_for(
    folder: Path, tmp_path: Path, card: Scorecard, capsys: pytest.CaptureFixture[str]
) -> None:
    own = card.row()
    for baseline, name in ((None, "random images"), ("herding", "herding images"), ("full", "all real images")):
        other = card.row(name)
        page = write(folder, tmp_path, card, "codes", against=baseline)
        heads = page.texts.index(f"minus {name}")
        gains = [a - b for a, b in zip(own.per_class, other.per_class, strict=True) if a is not None and b is not None]
        listed = page.texts[heads:]
        at = 0
        for gain in gains:
            at = listed.index(f"{gain:+.1f}", at) + 1
        assert any(f"Against “{name}” (2 seeds together, without an interval)" in text for text in page.texts)
        best = max(range(10), key=lambda place: (gains[place], place))
        assert f" ({max(gains):+.1f} points), the least on " in page.texts and card.classes[best] in page.texts
    for baseline, message in (("initial", "class by class of baseline initial"), ("rondom", "did you mean 'random'")):
        with pytest.raises(InputError, match=message):
            write(folder, tmp_path, card, "codes", against=baseline)
    line = ["report", str(file(folder, "codes")), "--scores", str(tmp_path / "card.json"), "--against", "herding"]
    assert main([*line, "--out", str(tmp_path / "again.html")]) == 0
    assert "minus herding images" in (tmp_path / "again.html").read_text()
    capsys.readouterr()


def test_a_card_may_have_the_classes_of_its_set_alone(card: Scorecard) -> None:
    rows = tuple(each if each is card.rows[0] else each.model_copy(update={"per_class": ()}) for each in card.rows)
    accuracies = class_accuracies(card.model_copy(update={"rows": rows}), card.rows[0].network)
    assert accuracies is not None and accuracies[0].startswith("Recognised best is")
    assert list(accuracies[1].heads) == ["class", "of 100", "distilled"]


def test_names_of_rows_and_classes_are_text_in_curves_and_tables(card: Scorecard) -> None:
    rows = tuple(
        each if each.name == "distilled" else each.model_copy(update={"name": attack})
        for each, attack in zip(card.rows, ATTACKS, strict=False)
    )
    hostile = card.model_copy(update={"rows": rows, "classes": ATTACKS})
    parts: Any = environment().get_template("page.parts.html").module
    figure, accuracies = accuracy_curves(hostile, rows[0].network, "x"), class_accuracies(hostile, rows[0].network)
    assert figure is not None and accuracies is not None
    for drawn in (parts.figure(figure.chart, figure.caption), accuracies[0] + parts.table(accuracies[1])):
        assert not {tag for tag, _ in Page(drawn).tags} & {"script", "img", "b", "iframe"}
        assert not [name for _, attributes in Page(drawn).tags for name in attributes if name.startswith("on")]


# What the page said wrongly


def test_the_table_of_a_card_with_unseen_means_is_drawn(card: Scorecard) -> None:
    """Means over unseen networks are lines without a row of their own."""
    networks = (NetworkConfig(kind="alexnet"), NetworkConfig(kind="vit"))
    rows = tuple(each.model_copy(update={"network": network}) for network in networks for each in card.rows)
    unseen = card.model_copy(update={"rows": rows, "distilled_with": (NetworkConfig(),), "differences": ()})
    assert len(unseen.lines()) > len(unseen.rows)
    assert any("mean of 2 unseen" in row for row in score_table(unseen)[0].rows)


def test_seeds_without_spread_are_not_called_worse() -> None:
    first, second = row("distilled", 50.0, 60.0), row("random images", 40.0, 50.0)
    difference = Difference.between(first, second)
    assert difference.verdict == "no spread seen: unknown"
    told = against(difference, second)
    assert "worse" not in told and "+10.0 points, no spread seen: unknown" in told
    assert "better by 10.1 points" in against(Difference.between(first, row("x", 40.0, 49.9)), second)


def test_the_verdict_is_the_cards(card: Scorecard) -> None:
    text, sentences = verdict(card, card.rows[0].network)
    for difference in card.differences:
        assert any(difference.verdict in sentence for sentence in [text, *sentences])
