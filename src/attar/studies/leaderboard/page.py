"""Recorded runs as one page: a table and a plot for each data set and protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attar.base.errors import InputError
from attar.base.files import content_key, refuse_existing, write_text
from attar.evaluation.card import TextTable
from attar.evaluation.dd_ranking import normalised
from attar.evaluation.plots import Point, plot_accuracy
from attar.evaluation.rows import DISTILLED, NAMES, Row
from attar.evaluation.scorecard import Scorecard
from attar.models.networks.network import NetworkConfig
from attar.studies.leaderboard.record import Record, protocol_key, slug

COLUMNS = (
    "set",
    "network",
    "items",
    "paper bytes",
    "stored bytes",
    "bits per class",
    "external bytes",
    "accuracy %",
    "random images %",
    "minus random",
    "random uint8 %",
    "initial %",
    "% of full",
    "mean of unseen %",
    "HLR",
    "IOR",
    "LRS",
    "ARS",
    "minutes",
    "run",
)
PREFACE = """# Leaderboard

Made by `attar leaderboard` from the recorded runs in a folder; not edited by hand. Every column is explained in
[scorecard.md](scorecard.md). Accuracy is the mean ± standard deviation over the networks of a run's seeds, in percent
of the test images. *Random images* hold as many values as the set's items (papers' bytes), *random uint8* are as many
plain images as the bytes of the file hold, *initial* is the undistilled start. A cell is empty where its run has not
what it needs. Rows of one table share data and protocol; rows of different tables do not compare.
{order}
"""

Order: TypeAlias = Literal["bytes", "paper-bytes", "accuracy", "name", "time"]

ORDERS: dict[Order, str] = {
    "bytes": "Sets are sorted by the bytes of their files, the smallest first, then by name.",
    "paper-bytes": "Sets are sorted by the papers' bytes, the fewest first, then by the bytes of their files and name.",
    "accuracy": "Sets are sorted by accuracy on a run's first network, the highest first, then by bytes and name.",
    "name": "Sets are sorted by name, then by the bytes of their files.",
    "time": "Sets are sorted by the time of their runs, the latest first, then by the bytes of their files and name.",
}
"""What a page says of the order of its rows."""


@dataclass(frozen=True)
class Section:
    """Runs that may be compared: the same data and the same protocol.

    Args:
        title: data and protocol.
        picture: file name of its plot.
        records: in the order asked for.
    """

    title: str
    picture: str
    records: tuple[Record, ...]


def sections(records: Sequence[Record], order: Order = "bytes") -> list[Section]:
    """The records by data and protocol, in the order of their names; those of one section as `order` says.

    Of two records of the same set, data, protocol, networks, seeds and device the later one counts.
    """
    latest: dict[str, Record] = {}
    for record in sorted(records, key=lambda each: (each.time, each.to_json())):
        latest[record.key] = record
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in latest.values():
        card = record.card
        split = card.test_fingerprint, card.train_fingerprint
        about: tuple[str, ...] = (card.data, card.protocol.label, *split, protocol_key(card))
        groups.setdefault(about, []).append(record)
    titles = [about[:2] for about in groups]
    names = {about: f"{slug(about[0])}-{slug(about[1])}" for about in groups}
    made = []
    for about in sorted(groups):
        told, name = f"{about[0]}, protocol {about[1]}", names[about]
        if titles.count(about[:2]) > 1:
            told = f"{told} (settings or split {about[2][:6]}{about[3][:6]}{about[4][:6]})"
        if list(names.values()).count(name) > 1:
            name = f"{name}-{content_key(*about)[:16]}"
        ordered = _ordered(groups[about], order)
        made.append(Section(told, f"{name}.png", tuple(ordered)))
    return made


def page(records: Sequence[Record], pictures: str, order: Order = "bytes") -> str:
    """The page as Markdown; the same records in any order give the same text.

    Args:
        records: at least one.
        pictures: folder of the plots, as the page links to it.
        order: of the rows of a table.
    """
    told = (line for each in sections(records, order) for line in _section_lines(each, pictures))
    return "\n".join([PREFACE.format(order=ORDERS[order]), *told])


def write_page(records: Sequence[Record], out: Path, overwrite: bool = False, order: Order = "bytes") -> list[Path]:
    """Write the page, and a plot for each section into a folder beside it that is called as the page is.

    Args:
        records: at least one.
        out: of the page, a .md.
        overwrite: replace what exists.
        order: of the rows of a table.

    Raises:
        InputError: `out` is not a .md file, or it or a plot exists and may not be overwritten.
    """
    if out.suffix != ".md":
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; the page is Markdown: name it .md")
    folder = out.with_suffix("")
    found = sections(records, order)
    refuse_existing(out, overwrite)
    for section in found:
        if (folder / section.picture).exists():
            refuse_existing(folder / section.picture, overwrite)
    folder.mkdir(exist_ok=True)
    plots = [plot(section, folder / section.picture) for section in found if _points(section)]
    write_text(out, page(records, folder.name, order))
    return [out, *plots]


def plot(section: Section, out: Path) -> Path:
    """Accuracy against bytes, a point for each run on its first network, and quieter ones for baselines."""
    return plot_accuracy(
        _points(section),
        out,
        title=f"{section.title}, {', '.join(_first_networks(section))}",
        size_label="bytes: the set's file, or the images as plain uint8 or JPEG",
        overwrite=True,
    )


def _ordered(records: Sequence[Record], order: Order) -> list[Record]:
    def key(record: Record) -> tuple[Any, ...]:
        card, sizes = record.card, record.card.storage
        own = _row(card, DISTILLED, card.rows[0].network)
        mean = -1.0 if own is None or own.mean is None else own.mean
        usual = sizes.file_bytes, card.name, record.key
        firsts: dict[Order, tuple[Any, ...]] = {
            "bytes": (), "paper-bytes": (sizes.paper_bytes,), "accuracy": (-mean,), "name": (card.name,), "time": (),
        }  # fmt: skip
        return (*firsts[order], *usual)

    found = sorted(records, key=key)
    return sorted(found, key=lambda each: each.time, reverse=True) if order == "time" else found


def _first_networks(section: Section) -> list[str]:
    return list(dict.fromkeys(record.card.rows[0].network.name for record in section.records))


def _section_lines(section: Section, pictures: str) -> list[str]:
    lines = [
        [_plain(cell) for cell in cells]
        for number, record in enumerate(section.records, 1)
        for cells in _cells(record, number)
    ]
    card = section.records[0].card
    shape = " x ".join(map(str, card.image_shape))
    about = f"{len(card.classes)} classes, images {shape}, {card.num_test:,} test images"
    compared = "" if card.protocol.comparable else "; not comparable with published numbers"
    image = [f"![Accuracy against bytes: {_plain(section.title)}]({pictures}/{section.picture})", ""] * bool(
        _points(section)
    )
    runs = [line for number, record in enumerate(section.records, 1) for line in _run_lines(record, number)]
    table = TextTable(about + compared, COLUMNS, lines).markdown()
    return [f"## {_plain(section.title)}", "", table, *image, "Runs:", "", *runs, ""]


def _cells(record: Record, number: int) -> Iterator[list[str]]:
    card, sizes = record.card, record.card.storage
    unseen = _unseen(card)
    for network in dict.fromkeys(row.network for row in card.rows):
        own, random = _row(card, DISTILLED, network), _row(card, NAMES["random"], network)
        if own is None:
            continue
        difference = None if random is None else card.difference(random)
        share = card.recovery(own)
        yield [
            card.name + (f" ({card.recipe})" if card.recipe not in ("", card.name) else ""),
            network.name,
            f"{own.num_items:,}",
            f"{sizes.paper_bytes:,}",
            f"{sizes.file_bytes:,}",
            f"{sizes.bits_per_class:,.0f}",
            f"{sizes.external_bytes:,}",
            own.accuracy_text,
            _text(random),
            difference.text if difference else "",
            _text(_row(card, NAMES["random-uint8"], network)),
            _text(_row(card, NAMES["initial"], network)),
            "" if share is None else f"{share:.0f}",
            unseen,
            *_ranking(card, network),
            f"{own.minutes:.2g}",
            f"[{number}]",
        ]
        unseen = ""  # one mean is of all networks, and stands with the first


def _run_lines(record: Record, number: int) -> list[str]:
    card = record.card
    seeds = ", ".join(map(str, card.seeds))
    told = f"{number}. {card.name}: {record.time[:10]}; commit {record.commit[:12]}; seeds {seeds}; {card.device}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(card.versions.items()))
    commands = [command for command in (record.made_by, record.command) if command]
    return [f"{_plain(told)}; {_plain(versions)}", "", *(f"       {_plain(command)}" for command in commands), ""]


def _unseen(card: Scorecard) -> str:
    """The set's mean over the networks that it was not distilled with, and their number; "" where none was tested."""
    own = next((each for each in card.unseen() if each.name == DISTILLED), None)
    return "" if own is None else f"{own.text} ({len(own.networks)})"


def _ranking(card: Scorecard, network: NetworkConfig) -> list[str]:
    """HLR and IOR in percentage points, LRS and ARS of fractions; "" for what a row is missing for."""
    found = card.ranking(network)
    gaps = ["" if gap is None else gap.text for gap in (found.hard_label_recovery, found.improvement_over_random)]
    scores = (found.label_robust, found.augmentation_robust)
    return [*gaps, *("" if points is None else f"{normalised(points):.3f}" for points in scores)]


def _points(section: Section) -> list[Point]:
    points, several = [], len(_first_networks(section)) > 1
    for record in section.records:
        network = record.card.rows[0].network
        told = f", {network.name}" * several
        for row in record.card.rows:
            if row.network != network or row.mean is None or not row.num_bytes or row.name in _VARIED:
                continue
            own = row.name == DISTILLED
            series = record.card.name if own else row.name
            points.append(Point(series + told, row.num_bytes, row.mean, row.std, None, baseline=not own))
    return sorted(dict.fromkeys(points), key=lambda point: point.baseline)


_VARIED = (NAMES["hard-labels"], NAMES["plain"], NAMES["random-plain"], NAMES["full"])


def _row(card: Scorecard, name: str, network: NetworkConfig) -> Row | None:
    return next((row for row in card.rows if (row.name, row.network) == (name, network)), None)


def _text(row: Row | None) -> str:
    return "" if row is None else row.accuracy_text


def _plain(text: str) -> str:
    """On one line, and without what Markdown would take for a tag, a link or a picture."""
    return " ".join(text.split()).replace("<", "&lt;").replace("](", "]&#40;")
