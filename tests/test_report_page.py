"""The page of distilled files: what it says is what was measured, and nothing in it is believed or fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image

from attar.base.errors import InputError
from attar.cli import main
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.evaluation.compare import Comparison
from attar.evaluation.plots import Point
from attar.evaluation.scorecard import Scorecard
from attar.report.page import charts, pictures
from attar.report.page.charts import accuracy_chart, loss_chart
from attar.report.page.markup import HERE, UNFIT, Table, environment
from attar.report.page.pictures import Room, contact_sheet, most_likely
from attar.report.page.runs import LossCurve, loss_curves
from attar.report.page.writing import write_page
from attar.sets.distilled import DistilledSet
from report_pages import ATTACKS, card_file, file, write
from small_sets import build, digit_images

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "h4", "nav", "a", "button", "main"),
    *("article", "section", "p", "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "bdi", "span"),
    *("figure", "figcaption", "img", "details", "summary", "pre", "footer", "dialog", "form", "script"),
    *("svg", "g", "path", "rect", "circle", "text", "defs", "use", "clippath"),
}
QUICK = (Phase.explicit, Phase.generate)  # a chart takes a tenth of a second, and shrinking draws thousands
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a parser that believes nothing finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(attributes) == len({name for name, _ in attributes}), attributes
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.stack and self.stack[-1] in ("script", "style"):
            self.inside[self.stack[-1]] = self.inside.get(self.stack[-1], "") + data

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def all(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def folder(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(reported, tmp_path_factory.mktemp("pages") / "copied"))


def parsed(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def card_of(folder: Path, name: str) -> Scorecard:
    return Scorecard.from_json(card_file(folder, name).read_text())


@pytest.mark.parametrize("names", [("codes",), ("d3",), ("lic",), ("hostile",), ("codes", "d3", "lic", "hostile")])
def test_the_page_is_whole_and_fetches_nothing(folder: Path, names: tuple[str, ...]) -> None:
    text = write(folder, *names).read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= TAGS
    identities = page.all("id")
    assert len(identities) == len(set(identities))
    assert {link.removeprefix("#") for link in page.all("href")} <= set(identities)
    assert all(link.startswith("#") for link in page.all("href"))
    assert {*page.all("aria-labelledby"), *page.all("data-copies")} <= set(identities)
    assert all(re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$", source) for source in page.all("src"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert not {"srcset", "action", "formaction", "poster", "xlink:href"} & {
        name for _, attributes in page.tags for name in attributes
    }
    assert "http://" not in text and "https://" not in text
    for tag in ("script", "style", "title"):
        assert [name for name, _ in page.tags].count(tag) == (1 if tag != "title" else text.count("<title"))


def test_the_policy_lets_in_this_script_and_this_style_alone(folder: Path) -> None:
    page = parsed(write(folder, "codes"))
    [policy] = [each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    digest = {tag: base64.b64encode(hashlib.sha256(page.inside[tag].encode()).digest()).decode() for tag in page.inside}
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest['style']}'",
        "script-src": f"'sha256-{digest['script']}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "document.write", "fetch(", "import"):
        assert forbidden not in page.inside["script"]
    for forbidden in ("url(", "@import", "@font-face"):
        assert forbidden not in page.inside["style"]


def test_names_are_text_whatever_they_are(folder: Path) -> None:
    page = parsed(write(folder, "hostile"))
    assert "\ufffdright to left" in page.texts
    for name in (UNFIT.sub("\ufffd", attack) for attack in ATTACKS):
        assert name in page.texts, name
        assert any(name in alternative for alternative in page.all("alt")), name
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_the_same_files_give_the_same_page_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    first = write(folder, "codes", "d3", "lic").read_bytes()
    for name in ("codes", "d3", "lic"):
        shutil.copy(file(folder, name), tmp_path)
        shutil.copy(card_file(folder, name), tmp_path)
        shutil.copytree(file(folder, name).with_name(f"{name}.run"), tmp_path / f"{name}.run")
    assert write(tmp_path, "codes", "d3", "lic").read_bytes() == first
    assert str(tmp_path).encode() not in first and str(folder).encode() not in first


def test_the_images_of_the_page_are_those_of_the_file(folder: Path) -> None:
    distilled = DistilledSet.load(file(folder, "codes"))
    real = load_images("digits").train
    page = parsed(write(folder, "codes", real=[real]))
    found = {attributes["alt"]: attributes["src"] for tag, attributes in page.tags if tag == "img"}
    stored = (distilled.images(clamp=True)[:, 0] * 255).round().byte().numpy()
    for item in (0, 5, len(distilled) - 1):
        label = int(distilled.labels[item])
        place = int((distilled.labels[:item] == label).sum())
        began = distilled.manifest.initialization.indices[item]
        told = f"{distilled.classes[label]}: stored image {place + 1}; began as training image {began:,} (random)"
        np.testing.assert_array_equal(decoded(found[told]), stored[item])
    beside = [each["src"] for tag, each in page.tags if tag == "img" and each.get("alt") == "3: a real image"]
    assert len(beside) == 4
    np.testing.assert_array_equal(decoded(beside[1]), real.images[real.class_indices[3][1]][0].numpy())


def test_distributions_show_means_samples_and_what_lies_between(folder: Path) -> None:
    distilled = DistilledSet.load(file(folder, "d3"))
    found = {
        each.get("alt"): each["src"] for tag, each in parsed(write(folder, "d3")).tags if tag == "img" and "src" in each
    }
    for told, epoch in (("4:1: mean", None), ("4:1: sample of epoch 5", 5)):
        whole = torch.cat([(distilled.labels == label).nonzero()[:2, 0] for label in range(10)])
        expected = distilled.images(whole, epoch, clamp=True)[9, 0]
        np.testing.assert_array_equal(decoded(found[told]), (expected * 255).round().byte().numpy())
    ends = [found[f"6 to 7: {percent} %"] for percent in (0, 100)]
    assert ends == [found["6:0: mean"], found["7:0: mean"]]
    assert found["6 to 7: 43 %"] not in ends


def test_region_labels_stand_with_their_regions(folder: Path) -> None:
    distilled = DistilledSet.load(file(folder, "lic"))
    page = parsed(write(folder, "lic"))
    images, labels = next(distilled.loader(12, epoch=0, seed=0))
    sources = [each["src"] for tag, each in page.tags if tag == "img" and each.get("alt", "").startswith("region: ")]
    assert len(sources) == len(images) == 10
    for place, source in enumerate(sources):
        expected = (images[place, 0].clamp(0, 1) * 255).round().byte().numpy()
        np.testing.assert_array_equal(decoded(source), expected)
        assert most_likely(labels[place], distilled.classes)[0] in page.texts
    assert len([told for told in page.all("alt") if "of 4 tiles" in told]) == 10
    assert f"{distilled.storage.label_bytes:,} bytes" in page.texts and "tile_probability" in page.texts


@pytest.mark.parametrize("name", ["codes", "d3", "lic"])
def test_the_page_says_what_the_card_and_the_file_say(folder: Path, name: str) -> None:
    card, distilled = card_of(folder, name), DistilledSet.load(file(folder, name))
    page = parsed(write(folder, name))
    for row in card.rows:
        assert row.accuracy_text in page.texts
    own, [difference] = card.row(), card.differences
    assert f"put {own.accuracy_text} % of {card.num_test:,} real test images" in page.text
    words = {"better": "better by", "worse": "worse by", "within noise": f"{difference.mean:+.1f} points, within noise"}
    assert words[difference.verdict] in page.text
    for percent in own.per_class:
        assert percent is not None and f"{percent:.1f} %" in page.all("aria-label")
    cells = [f"{100 * count / sum(line):.0f}" for line in own.confusion for count in line]
    start = page.texts.index("true \\ predicted")
    drawn = [text for text in page.texts[start:] if text.isdecimal()]
    for label in range(10):  # each line begins with its class
        assert drawn[10 + 11 * label : 21 + 11 * label] == [str(label), *cells[10 * label : 10 * label + 10]]
    storage = distilled.storage
    for size in (
        f"{storage.paper_bytes:,} bytes",
        f"{storage.file_bytes:,} bytes",
        f"{storage.bits_per_class:,.0f} bits",
    ):
        assert size in page.texts
    for key in ("fingerprint", "content_sha256"):
        value = distilled.fingerprint if key == "fingerprint" else distilled.manifest.content_sha256
        assert f"sha256 {value}" in page.texts
    assert distilled.manifest.data.fingerprint in page.texts
    for setting in ("steps", "name", "title"):
        assert setting in page.texts and str(distilled.manifest.recipe[setting]) in page.texts
    assert "@inproceedings{" in page.text or "@misc{" in page.text or "@article{" in page.text


def test_a_page_without_a_card_says_so(folder: Path, tmp_path: Path) -> None:
    page = parsed(write_page([file(folder, "codes")], tmp_path / "bare.html"))
    assert "No scorecard was given, so this page cannot say what the file is worth." in page.text
    assert "true \\ predicted" not in page.texts


def test_losses_are_those_of_the_files_own_run(folder: Path, tmp_path: Path) -> None:
    distilled = DistilledSet.load(file(folder, "codes"))
    [curve], told = loss_curves(file(folder, "codes"), distilled)
    lines = [json.loads(line) for line in (folder / "codes.run" / "metrics.jsonl").read_text().splitlines()]
    assert (curve.steps, curve.losses, told) == (
        tuple(range(1, 41)),
        tuple(line["loss"] for line in lines),
        "",
    )
    assert loss_curves(tmp_path / "codes.attar.safetensors", distilled) == (
        [],
        "There is no folder codes.run beside the file, where the losses of a run are kept.",
    )
    run = tmp_path / "codes.run"
    shutil.copytree(folder / "codes.run", run)
    whole = json.loads((run / "run.json").read_text())
    for change, name in (
        ({"seed": 7}, "seed"),
        ({"data": "0" * 64}, "data"),
        ({"recipe": {**whole["recipe"], "steps": 9}}, "recipe.steps"),
    ):
        (run / "run.json").write_text(json.dumps({**whole, **change}))
        assert loss_curves(tmp_path / "codes.attar.safetensors", distilled) == (
            [],
            f"The folder codes.run is of another run ({name} differs); its losses are not drawn.",
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]\n",
        "1\n",
        '{"step": 1, "loss": 1e200}\n',
        '{"step": "<b>", "loss": 1}\n',
        "[" * 100_000,
        '{"step":1,"loss":"x"}',
    ],
)
def test_damaged_losses_are_told_and_not_drawn(folder: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(folder / "codes.run", tmp_path / "codes.run")
    (tmp_path / "codes.run" / "metrics.jsonl").write_text(text)
    curves, told = loss_curves(tmp_path / "codes.attar.safetensors", DistilledSet.load(file(folder, "codes")))
    assert curves == [] and told.startswith("The losses cannot be drawn: ") and str(tmp_path) not in told


def test_parts_of_a_run_have_a_curve_each(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "codes.run" / "parts"
    for place in (2, 10, 1):
        shutil.copytree(folder / "codes.run", parts / f"part-{place}.run")
    shutil.copy(folder / "codes.run" / "run.json", tmp_path / "codes.run")
    curves, _ = loss_curves(tmp_path / "codes.attar.safetensors", DistilledSet.load(file(folder, "codes")))
    assert [curve.name for curve in curves] == ["part-1", "part-2", "part-10"]


def test_large_sets_are_shown_in_part_and_the_count_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randint(0, 256, (16, 3, 160, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = ImageSet(noise, torch.arange(16) // 2, tuple(f"class {place}" for place in range(8)))
    build(large, "pixels", "int8", 2, classes=large.classes).save(file(tmp_path, "large"))
    whole = parsed(write_page([file(tmp_path, "large")], tmp_path / "whole.html"))
    assert len(whole.all("alt")) == 16 and "Shown" not in whole.text
    assert {decoded(source).shape for source in whole.all("src")} == {(160, 120, 3)}
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 30_000)
    part = parsed(write_page([file(tmp_path, "large")], tmp_path / "part.html"))
    assert len(part.all("alt")) == 7
    assert "Shown are the first 1 of at most 2 of each class." in part.text
    assert "Shown are the first 7 of 8 classes. Images of 160 pixels are reduced to 64." in part.text
    assert {decoded(source).shape for source in part.all("src")} == {(64, 48, 3)}


@given(
    height=st.integers(1, 4096),
    width=st.integers(1, 4096),
    num_classes=st.integers(2, 10**5),
    shares=st.integers(1, 100),
)
def test_images_never_take_more_than_their_room(height: int, width: int, num_classes: int, shares: int) -> None:
    room = Room.of((3, height, width), num_classes, shares)
    limit = pictures.SMALL_PIXELS if max(height, width) <= pictures.SMALL_SIDE else pictures.LARGE_PIXELS
    assert shares * room.num_classes * room.per_class * room.side**2 <= limit
    assert 1 <= room.num_classes <= min(num_classes, pictures.MOST_CLASSES)
    assert 1 <= room.per_class <= pictures.MOST_PER_CLASS and room.num_images >= 1


def places_in(drawn: str) -> list[tuple[float, float]]:
    """Where a chart has its markers and the corners of its lines; text and the shapes of markers left out."""
    assert "nan" not in drawn and "inf" not in drawn
    shapes = re.sub("<defs>.*?</defs>", "", drawn)
    pairs = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", shapes)
    pairs += re.findall(r'<use href="[^"]+" x="([^"]+)" y="([^"]+)"', shapes)
    return [(float(x), float(y)) for x, y in pairs]


stds = st.none() | st.floats(0, 50)
point = st.builds(
    Point, st.sampled_from("abc"), st.integers(1, 10**12), st.floats(0, 100), stds, baseline=st.booleans()
)
points = st.lists(point, min_size=1, max_size=8)


@settings(max_examples=15, deadline=None, phases=QUICK)
@given(points, st.floats(0.1, 50))
def test_no_point_lies_outside_its_chart(points: list[Point], chance: float) -> None:
    places = places_in(accuracy_chart(points, chance, "x").svg)
    assert len(places) > len(points)
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)


@settings(max_examples=15, deadline=None, phases=QUICK)
@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 2**52))
@example([1.0, 2.225073858507e-311], 1, 0)
@example([1e100, 1e-250], 1, 0)
def test_no_loss_lies_outside_its_chart(losses: list[float], times: int, first: int) -> None:
    losses = losses * times
    curve = LossCurve("", tuple(range(first, first + len(losses))), tuple(losses))
    places = places_in(loss_chart([curve], "x").svg)
    assert 0 < len(places) <= 2 * charts.MOST_POINTS + 100
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)


def test_a_chart_has_the_values_where_its_axes_say() -> None:
    """Two points a decade and 20 % apart: halfway along a logarithmic axis is the square root of 10."""
    drawn = accuracy_chart([Point("a", 1000, 40.0, None), Point("b", 10_000, 60.0, None)], 50.0, "x").svg
    (left, lower), (right, upper) = re.findall(r'<title>[^<]*</title>.*?x="([\d.]+)" y="([\d.]+)"', drawn)
    ticks = {text: float(x) for x, text in re.findall(r'x="([\d.]+)"[^>]*>([\d.]+ k?B)<', drawn)}
    assert ticks["1 kB"] == pytest.approx(float(left), abs=0.01)
    assert ticks["10 kB"] == pytest.approx(float(right), abs=0.01)
    share = (ticks["2 kB"] - ticks["1 kB"]) / (ticks["10 kB"] - ticks["1 kB"])
    assert share == pytest.approx(np.log10(2), abs=1e-4)
    heights = {text: float(y) for y, text in re.findall(r'y="([\d.]+)"[^>]*>(\d\d)<', drawn)}
    assert (heights["40"] - heights["60"]) == pytest.approx(float(lower) - float(upper), abs=0.01)


@settings(max_examples=25, deadline=None, phases=QUICK)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_text_again(cell: str, caption: str) -> None:
    parts: Any = environment().get_template("page.parts.html").module
    page = Page(parts.table(Table(caption, [[cell, Markup("<b>bold</b>")]])))
    cleaned = UNFIT.sub("\ufffd", caption)
    assert [cleaned] == page.all("aria-label") and cleaned in ["", *page.texts]
    assert UNFIT.sub("\ufffd", cell) in ["", *page.texts] and "bold" in page.texts
    assert [tag for tag, _ in page.tags if tag == "b"] == ["b"]


def test_scorecards_are_of_the_files_or_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"

    def refused(message: str, cards: list[Path], *names: str) -> None:
        with pytest.raises(InputError, match=message):
            write_page([file(folder, name) for name in names], out, scores=cards)
        assert not out.exists()

    def changed(**changes: Any) -> Path:
        tree = json.loads(card_file(folder, "codes").read_text())
        tree["rows"][1] |= {"curve_epochs": [], "curves": [], **changes}
        tree["differences"] = []
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(tree))
        return path

    refused("measured on none of these files", [card_file(folder, "codes")], "d3", "lic")
    refused("cannot be read", [tmp_path / "absent.json"], "codes")
    refused("is not JSON", [file(folder, "codes").with_name("codes.run") / "metrics.jsonl"], "codes")
    refused("scorecard", [folder / "codes.run" / "run.json"], "codes")
    refused("out of range", [changed(accuracies=[1e300, 1e300], mean=1e300, std=0.0)], "codes")
    refused("out of range", [changed(num_bytes=10**400)], "codes")
    twin = file(tmp_path, "twin")
    shutil.copy(file(folder, "codes"), twin)
    write_page([twin, file(folder, "codes")], out, scores=[card_file(folder, "codes")])
    assert parsed(out).text.count("No scorecard was given.") == 1
    several = Comparison(cards=tuple(card_of(folder, name) for name in ("codes", "d3")))
    (tmp_path / "several.json").write_text(several.to_json())
    write_page([file(folder, "codes"), file(folder, "d3")], out, scores=[tmp_path / "several.json"], overwrite=True)
    page = parsed(out)
    assert "No scorecard was given." not in page.texts
    assert page.all("id").count("all-bytes-1") == 1 and "all-bytes-2" not in page.all("id")


def test_impossible_pages_are_refused(folder: Path, tmp_path: Path) -> None:
    codes, out = file(folder, "codes"), tmp_path / "page.html"
    for message, arguments in (
        ("is an HTML page", ([codes], tmp_path / "page.png")),
        ("1 to 20", ([], out)),
        ("1 to 20", ([codes] * 21, out)),
        ("does not exist", ([tmp_path / "absent"], out)),
    ):
        with pytest.raises(InputError, match=message):
            write_page(*arguments)
    with pytest.raises(InputError, match="do not fit the set"):
        write_page([codes], out, real=[digit_images()])
    out.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_page([codes], out)
    assert out.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_set_that_cannot_be_rendered_still_has_its_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(self: DistilledSet) -> Any:
        raise InputError("weights <x> are absent")

    monkeypatch.setattr(DistilledSet, "parameterizations", absent)
    page = parsed(write_page([file(folder, "codes")], tmp_path / "page.html"))
    assert "The images cannot be drawn: weights <x> are absent." in page.texts
    assert "four sizes of the set" in page.texts


def test_soft_labels_stand_below_the_images(folder: Path) -> None:
    distilled = DistilledSet.load(file(folder, "hostile"))
    assert distilled.soft_labels is not None
    sheet = contact_sheet(distilled, None, Room.of(distilled.image_shape, 10, 1))
    [_, caption] = sheet.blocks[0].strips[0].pictures[0]
    assert caption.endswith(f"; label {', '.join(most_likely(distilled.soft_labels[0], distilled.classes))}")


def test_the_verb_writes_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    line = ["report", str(file(folder, "codes")), "--scores", str(card_file(folder, "codes")), "--data", "digits"]
    assert main([*line, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = parsed(out)
    assert "1,438, which are those the file was made from" in page.texts
    assert main([*line, "--out", str(out)]) == 2 and "exists" in capsys.readouterr().err
    assert main([*line, "--out", str(out), "--overwrite"]) == 0


def test_the_pages_own_files_are_part_of_the_package() -> None:
    listed = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert '"report/page/page.*"' in listed
    assert {path.name for path in HERE.glob("page.*")} == {"page.css", "page.html", "page.js", "page.parts.html"}
    assert {path.suffix for path in HERE.iterdir() if path.is_file()} == {".py", ".css", ".html", ".js"}
