"""The page itself: its order, its policy, and what it is written from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.base.errors import InputError, unknown
from attar.base.files import refuse_existing, set_name, write_text
from attar.base.version import __version__
from attar.data.image_set import ImageSet
from attar.evaluation.rows import NAMES
from attar.evaluation.scorecard import DISTILLED, Scorecard
from attar.report.page import about, pictures, scores
from attar.report.page.cards import card_owners, how_it_fits, networks_of, read_cards
from attar.report.page.charts import loss_chart
from attar.report.page.markup import Child, Html, element, joined, name, table
from attar.report.page.pictures import Room
from attar.report.page.runs import loss_curves
from attar.sets.distilled import DistilledSet

HERE = Path(__file__).parent
MOST_FILES = 20
NO_CURVES = "The scorecard has no accuracies epoch by epoch; attar evaluate --curves keeps them."


@dataclass(frozen=True)
class Subject:
    """One file of the page.

    Args:
        file: where it lies; the page says its name without folders.
        distilled: its content.
        cards: measured on it.
        real: real training images to show beside its own.
        prefix: of its identities in the page.
        num_files: how many share the page's room for images.
        against: the row that its percents are compared with, class by class; None: see `class_accuracies`.
    """

    file: Path
    distilled: DistilledSet
    cards: tuple[Scorecard, ...]
    real: ImageSet | None
    prefix: str
    num_files: int
    against: str | None = None


def write_page(
    files: Sequence[Path | str],
    out: Path | str,
    *,
    scores: Sequence[Path | str] = (),
    real: Sequence[ImageSet | None] | None = None,
    against: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML file that needs nothing beside it: images, scores, sizes and provenance of distilled files.

    The same files give the same bytes. Nothing is fetched, and nothing from a file is read as HTML.

    Args:
        files: distilled files, 1 to 20; a folder NAME.run beside one gives the losses of its run.
        out: path of the page, ending in .html.
        scores: scorecards of these files, from `Scorecard.to_json` or `Comparison.to_json`.
        real: for each file real training images of its classes and shape, or None.
        against: the baseline whose accuracies class by class the sets' are compared with, as `evaluate` names it; None
            takes random images.
        overwrite: replace an existing page.

    Raises:
        InputError: files or scorecards that are damaged or do not fit, an existing or impossible `out`, or a baseline
            that no scorecard has class by class.
    """
    path, places = Path(out), [Path(file) for file in files]
    refuse_existing(path, overwrite)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"a report is an HTML page and {path.name!r} is not; name it e.g. {path.stem}.html")
    if not 1 <= len(places) <= MOST_FILES:
        raise InputError(f"{len(places)} files were given; a page shows 1 to {MOST_FILES}")
    sets = [DistilledSet.load(file) for file in places]
    cards = card_owners([card for each in scores for card in read_cards(Path(each))], places, sets)
    row = None if against is None else _row_compared(against, [card for own in cards for card in own])
    beside = list(real) if real is not None else [None] * len(sets)
    for distilled, images in zip(sets, beside, strict=True):
        _check_real(distilled, images)
    subjects = [
        Subject(file, distilled, tuple(own), images, f"set-{place}", len(places), row)
        for place, (file, distilled, own, images) in enumerate(zip(places, sets, cards, beside, strict=True), 1)
    ]
    write_text(path, page(subjects))
    return path


def page(subjects: Sequence[Subject]) -> Html:
    """The whole page as text."""
    style, script = ((HERE / each).read_text(encoding="utf-8") for each in ("page.css", "page.js"))
    title = "attar report: " + ", ".join(set_name(each.file) for each in subjects)
    allowed = f"img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Html(style)),
    )
    parts = [section(each) for each in subjects]
    body = element(
        "body", _header(subjects), element("main", _overview(subjects), *parts), _footer(), _viewer(),
        element("script", Html(script)),
    )  # fmt: skip
    return Html(f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n")


def section(subject: Subject) -> Html:
    """All that the page says of one file."""
    prefix = subject.prefix
    parts = [
        ("summary", "In short", _summary(subject)),
        ("images", "Images", _images(subject)),
        ("scores", "Scores", _scores(subject)),
        ("loss", "Loss of the run", _loss(subject)),
        ("sizes", "Sizes", about.sizes(subject.distilled, f"{prefix}-bytes")),
        ("labels", "Labels", about.labels(subject.distilled)),
        (
            "provenance",
            "Provenance",
            joined([about.provenance(subject.distilled, subject.real), about.settings(subject.distilled)]),
        ),
        ("citations", "Citations", about.citations(subject.distilled, f"{prefix}-bibtex")),
    ]
    links = element("nav", *(element("a", title, href=f"#{prefix}-{part}") for part, title, _ in parts), class_="parts")
    shown = [element("section", element("h3", title), content, id=f"{prefix}-{part}") for part, title, content in parts]
    return element("article", element("h2", name(set_name(subject.file))), links, *shown, id=prefix)


def _row_compared(kind: str, cards: Sequence[Scorecard]) -> str:
    """The row's name. Raises InputError for an unknown kind, or one that no card has class by class."""
    if kind not in NAMES:
        raise unknown("baseline", kind, tuple(NAMES))
    there = {row.name for card in cards for row in card.rows if row.per_class}
    if NAMES[kind] not in there:
        known = ", ".join(each for each, called in NAMES.items() if called in there) or "none at all"
        raise InputError(
            f"no scorecard has accuracies class by class of baseline {kind}; they have those of: {known}; evaluate "
            f"with --baselines {kind}, or leave --against out"
        )
    return NAMES[kind]


def _check_real(distilled: DistilledSet, images: ImageSet | None) -> None:
    if images is not None and (images.classes, images.image_shape) != (distilled.classes, distilled.image_shape):
        raise InputError(
            f"the real images ({images.num_classes} classes of {images.image_shape}) do not fit the set "
            f"({distilled.num_classes} classes of {distilled.image_shape}); load them as for distilling"
        )


def _header(subjects: Sequence[Subject]) -> Html:
    toggle = element(
        "button", "Dark or light", id="theme", type_="button", hidden=True, aria_label="change between dark and light"
    )
    links = [element("a", name(set_name(each.file)), href=f"#{each.prefix}") for each in subjects]
    nav = element("nav", *links, aria_label="files") if len(links) > 1 else None
    return element("header", element("h1", "Distilled data, and what it is worth"), nav, toggle)


def _overview(subjects: Sequence[Subject]) -> Html | None:
    """All files beside one another, where there are more than one."""
    if len(subjects) < 2:
        return None
    heads = ("file", "recipe", "items", "bytes", "protocol", "network", "accuracy %")
    rows = [cells for each in subjects for cells in _overview_rows(each)]
    found = table(heads, rows, caption="the files of this page", numbers=frozenset({"items", "bytes", "accuracy %"}))
    figures = scores.accuracy_figures([card for each in subjects for card in each.cards], "all")
    return element("section", element("h2", "All files"), found, *figures, id="all")


def _overview_rows(subject: Subject) -> list[list[Child]]:
    distilled = subject.distilled
    recipe = str(distilled.manifest.recipe.get("name", ""))
    cells: list[Child] = [name(set_name(subject.file)), recipe, f"{len(distilled):,}", f"{distilled.file_bytes:,}"]
    measured = [
        (card, row) for card in subject.cards for row in card.rows if row.name == DISTILLED and row.mean is not None
    ]
    if not measured:
        return [[*cells, "not measured", "", ""]]
    return [[*cells, card.protocol.label, row.network.name, row.accuracy_text] for card, row in measured]


def _summary(subject: Subject) -> Html:
    parts: list[Html] = [element("p", " ".join(about.in_words(subject.distilled)), class_="lead")]
    parts += [scores.verdict(card, network) for card in subject.cards for network in networks_of(card)]
    if not subject.cards:
        told = (
            "No scorecard was given, so this page cannot say what the file is worth. One is made by attar evaluate "
            f"{subject.file.name} --data DATA --json card.json, and shown with --scores card.json."
        )
        parts.append(element("p", told))
    told_of = [how_it_fits(card, subject.distilled) for card in subject.cards]
    parts += [element("p", told, class_="note") for told in told_of if told]
    if any(card.train_fingerprint != subject.distilled.manifest.data.fingerprint for card in subject.cards):
        parts.append(element("p", "A scorecard is of data whose training part is not what the file was made from."))
    return joined(parts)


def _images(subject: Subject) -> Html:
    distilled = subject.distilled
    try:
        stochastic = distilled.stochastic
    except InputError as error:
        return element("p", f"The images cannot be drawn: {error}.")
    regions = distilled.manifest.labels_kind == "regions"
    parts = 1 + (subject.real is not None) + 2 * stochastic + regions
    room = Room.of(distilled.image_shape, distilled.num_classes, parts * subject.num_files)
    sheet, told = pictures.contact_sheet(distilled, subject.real, room)
    if subject.real is not None:
        told += " Below them, framed in dashes, are real images of the same class."
    shown: list[Child] = [element("p", f"{told} A click makes an image large.", class_="note"), sheet]
    if stochastic:
        shown += _titled("Samples", *pictures.samples(distilled, room))
        shown += _titled("Between classes", *pictures.between_classes(distilled, room))
    if regions:
        shown += _titled("Regions and their labels", *pictures.labelled_regions(distilled, room))
    return joined(shown)


def _scores(subject: Subject) -> Html:
    if not subject.cards:
        return element("p", "No scorecard was given.")
    parts: list[Child] = [*scores.accuracy_figures(subject.cards, f"{subject.prefix}-accuracy")]
    for place, card in enumerate(subject.cards, 1):
        parts.append(scores.score_table(card))
        parts.append(None if any(row.curves for row in card.rows) else element("p", NO_CURVES, class_="note"))
        for number, network in enumerate(networks_of(card), 1):
            title = f", {network.name}" if len(networks_of(card)) > 1 else ""
            curves = scores.accuracy_curves(card, network, f"{subject.prefix}-curves-{place}-{number}")
            parts += _titled(f"Accuracy while training{title}", curves)
            parts += _titled(f"Class by class{title}", scores.class_accuracies(card, network, subject.against))
            parts += _titled(f"What is taken for what{title}", scores.confusions(card, network))
    return joined(parts)


def _loss(subject: Subject) -> Html:
    curves, told = loss_curves(subject.file, subject.distilled)
    note = element("p", told, class_="note") if told else None
    if not curves:
        return joined([note])
    steps = sum(len(curve.losses) for curve in curves)
    caption = f"Matching loss of {steps:,} steps (no unit): every step faint, a running mean over 5 % of them strong."
    chart = loss_chart(curves, f"{subject.prefix}-losses")
    return joined([element("figure", chart, element("figcaption", caption)), note])


def _titled(title: str, content: Html | None, told: str = "") -> list[Child]:
    """A heading, a note and the content; the note alone where there is no content, and nothing without either."""
    if content is None and not told:
        return []
    return [element("h4", title, class_="part"), element("p", told, class_="note") if told else None, content]


def _footer() -> Html:
    return element("footer", element("p", f"Written by attar {__version__}. The page fetches nothing."))


def _viewer() -> Html:
    """Where an image opens large; Escape closes it, and the arrow keys go to the next one."""
    return element(
        "dialog",
        element("p", id="viewer-caption"),
        element(
            "form",
            element("button", "Previous", type_="button", id="viewer-previous"),
            element("button", "Next", type_="button", id="viewer-next"),
            element("button", "Close", type_="submit", id="viewer-close"),
            method="dialog",
        ),
        id="viewer",
        aria_label="image",
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
