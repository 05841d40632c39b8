"""The page itself: what it is written from, its policy, and what its template is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attar.base.errors import InputError, unknown
from attar.base.files import refuse_existing, set_name, write_text
from attar.base.version import __version__
from attar.data.image_set import ImageSet
from attar.evaluation.rows import NAMES
from attar.evaluation.scorecard import DISTILLED, Scorecard
from attar.models.networks.network import NetworkConfig
from attar.report.page import about, pictures, scores
from attar.report.page.cards import card_owners, how_it_fits, networks_of, read_cards
from attar.report.page.charts import loss_chart, stacked_bar
from attar.report.page.markup import HERE, Table, environment, name
from attar.report.page.runs import loss_curves
from attar.sets.distilled import DistilledSet

MOST_FILES = 20


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
    cards = card_owners([card for path in scores for card in read_cards(Path(path))], places, sets)
    row = None if against is None else _row_compared(against, [card for owned in cards for card in owned])
    beside = list(real) if real is not None else [None] * len(sets)
    for distilled, images in zip(sets, beside, strict=True):
        _check_real(distilled, images)
    subjects = [
        Subject(file, distilled, tuple(owned), images, f"set-{place}", len(places), row)
        for place, (file, distilled, owned, images) in enumerate(zip(places, sets, cards, beside, strict=True), 1)
    ]
    write_text(path, page(subjects))
    return path


def page(subjects: Sequence[Subject]) -> str:
    """Return the whole page as text."""
    style, script = ((HERE / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    sources = f"img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    return (
        environment()
        .get_template("page.html")
        .render(
            policy=f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'",
            style=Markup(style),
            script=Markup(script),
            version=__version__,
            files=[file_values(subject) for subject in subjects],
            overview=_overview(subjects),
            figures=scores.accuracy_figures([card for subject in subjects for card in subject.cards], "all"),
        )
    )


def file_values(subject: Subject) -> dict[str, Any]:
    """Return what the template is given of one file."""
    distilled, prefix = subject.distilled, subject.prefix
    settings, num_settings = about.settings(distilled)
    bibtex, citation_note = about.citations(distilled)
    notes = [how_it_fits(card, distilled) for card in subject.cards]
    return {
        "name": set_name(subject.file),
        "filename": subject.file.name,
        "prefix": prefix,
        "sentences": about.in_words(distilled),
        "notes": [note for note in notes if note],
        "other_data": any(card.train_fingerprint != distilled.manifest.data.fingerprint for card in subject.cards),
        **_image_values(subject),
        "figures": scores.accuracy_figures(subject.cards, f"{prefix}-accuracy"),
        "cards": [
            _card_values(card, f"{prefix}-curves-{place}", subject.against)
            for place, card in enumerate(subject.cards, 1)
        ],
        **_loss_values(subject),
        "sizes": about.sizes(distilled),
        "bytes_chart": stacked_bar(about.file_parts(distilled), f"{prefix}-bytes"),
        "labels": about.labels(distilled),
        "provenance": about.provenance(distilled, subject.real),
        "settings": settings,
        "num_settings": num_settings,
        "bibtex": bibtex,
        "citation_note": citation_note,
    }


def _image_values(subject: Subject) -> dict[str, Any]:
    """Return the sheets of images, samples and interpolations, and the regions; or why there are none."""
    distilled = subject.distilled
    try:
        stochastic = distilled.stochastic
    except InputError as error:
        return {"fault": str(error)}
    regions = distilled.manifest.labels_kind == "regions"
    parts = 1 + (subject.real is not None) + 2 * stochastic + regions
    room = pictures.Room.of(distilled.image_shape, distilled.num_classes, parts * subject.num_files)
    return {
        "fault": "",
        "sheets": (
            pictures.contact_sheet(distilled, subject.real, room),
            pictures.samples(distilled, room) if stochastic else None,
            pictures.between_classes(distilled, room) if stochastic else None,
        ),
        "regions": pictures.labelled_regions(distilled, room) if regions else None,
    }


def _card_values(card: Scorecard, identity: str, against: str | None) -> dict[str, Any]:
    networks = networks_of(card)

    def network_values(place: int, network: NetworkConfig) -> dict[str, Any]:
        return {
            "title": f", {network.name}" if len(networks) > 1 else "",
            "verdict": scores.verdict(card, network),
            "curves": scores.accuracy_curves(card, network, f"{identity}-{place}"),
            "classes": scores.class_accuracies(card, network, against),
            "confusions": scores.confusions(card, network),
        }

    table, note = scores.score_table(card)
    return {
        "table": table,
        "note": note,
        "remarks": card.remarks(),
        "has_curves": any(row.curves for row in card.rows),
        "networks": [network_values(place, network) for place, network in enumerate(networks, 1)],
    }


def _loss_values(subject: Subject) -> dict[str, Any]:
    curves, note = loss_curves(subject.file, subject.distilled)
    if not curves:
        return {"loss": None, "loss_note": note}
    steps = sum(len(curve.losses) for curve in curves)
    caption = f"Matching loss of {steps:,} steps (no unit): every step faint, a running mean over 5 % of them strong."
    return {"loss": scores.Figure(loss_chart(curves, f"{subject.prefix}-losses"), caption), "loss_note": note}


def _overview(subjects: Sequence[Subject]) -> Table:
    """List all files beside one another."""
    heads = ("file", "recipe", "items", "bytes", "protocol", "network", "accuracy %")
    rows = [cells for subject in subjects for cells in _overview_rows(subject)]
    return Table("the files of this page", rows, heads, numbers=frozenset({"items", "bytes", "accuracy %"}))


def _overview_rows(subject: Subject) -> list[list[str]]:
    distilled = subject.distilled
    recipe = str(distilled.manifest.recipe.get("name", ""))
    cells = [name(set_name(subject.file)), recipe, f"{len(distilled):,}", f"{distilled.file_bytes:,}"]
    scores_of_file = [
        [*cells, card.protocol.label, row.network.name, row.accuracy_text]
        for card in subject.cards
        for row in card.rows
        if row.name == DISTILLED and row.mean is not None
    ]
    return scores_of_file or [[*cells, "not measured", "", ""]]


def _row_compared(kind: str, cards: Sequence[Scorecard]) -> str:
    """Return the row's name. Raises InputError for an unknown kind, or one that no card has class by class."""
    if kind not in NAMES:
        raise unknown("baseline", kind, tuple(NAMES))
    measured = {row.name for card in cards for row in card.rows if row.per_class}
    if NAMES[kind] not in measured:
        kinds = ", ".join(kind for kind, row_name in NAMES.items() if row_name in measured) or "none at all"
        raise InputError(
            f"no scorecard has accuracies class by class of baseline {kind}; they have those of: {kinds}; evaluate "
            f"with --baselines {kind}, or leave --against out"
        )
    return NAMES[kind]


def _check_real(distilled: DistilledSet, images: ImageSet | None) -> None:
    if images is not None and (images.classes, images.image_shape) != (distilled.classes, distilled.image_shape):
        raise InputError(
            f"the real images ({images.num_classes} classes of {images.image_shape}) do not fit the set "
            f"({distilled.num_classes} classes of {distilled.image_shape}); load them as for distilling"
        )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
