"""Recorded runs as one page: a table and a plot for each data set and protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
    """Runs that may be compared, in the order asked for: the same data and protocol. The picture is a file's name."""

    title: str
    picture: str
    records: tuple[Record, ...]

    @property
    def networks(self) -> list[str]:
        """The first network of every run, each once."""
        return list(dict.fromkeys(record.card.rows[0].network.name for record in self.records))

    def points(self) -> list[Point]:
        """Accuracy against bytes: a point for each run on its first network, then quieter ones for baselines."""
        points, several = [], len(self.networks) > 1
        for record in self.records:
            network = record.card.rows[0].network
            suffix = f", {network.name}" * several
            for row in record.card.rows:
                if row.network == network and row.mean is not None and row.num_bytes and row.name not in _VARIED:
                    is_set = row.name == DISTILLED
                    name = (record.card.name if is_set else row.name) + suffix
                    points.append(Point(name, row.num_bytes, row.mean, row.std, None, baseline=not is_set))
        return sorted(dict.fromkeys(points), key=lambda point: point.baseline)


def sections(records: Sequence[Record], order: Order = "bytes") -> list[Section]:
    """The records by data and protocol, in the order of their names; those of one section as `order` says.

    Of two records of the same set, data, protocol, networks, seeds and device the later one counts.
    """
    latest = {record.key: record for record in sorted(records, key=lambda record: (record.time, record.to_json()))}
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in latest.values():
        card = record.card
        split = card.test_fingerprint, card.train_fingerprint
        groups.setdefault((card.data, card.protocol.label, *split, protocol_key(card)), []).append(record)
    titles = [about[:2] for about in groups]
    names = {about: f"{slug(about[0])}-{slug(about[1])}" for about in groups}
    result = []
    for about in sorted(groups):
        title, name = f"{about[0]}, protocol {about[1]}", names[about]
        if titles.count(about[:2]) > 1:
            title += f" (settings or split {about[2][:6]}{about[3][:6]}{about[4][:6]})"
        if list(names.values()).count(name) > 1:
            name += f"-{content_key(*about)[:16]}"
        ordered = sorted(groups[about], key=lambda record: (*_KEYS[order](record), *_KEYS["bytes"](record)))
        result.append(Section(title, f"{name}.png", tuple(ordered)))
    return result


def page(records: Sequence[Record], pictures: str, order: Order = "bytes") -> str:
    """The page of at least one record as Markdown: the same records in any order give the same text.

    `pictures` is the folder of the plots, as the page links to it.
    """
    lines = (line for section in sections(records, order) for line in _section_lines(section, pictures))
    return "\n".join([PREFACE.format(order=ORDERS[order]), *lines])


def write_page(records: Sequence[Record], out: Path, overwrite: bool = False, order: Order = "bytes") -> list[Path]:
    """Write the page, and a plot for each section into a folder beside it that is called as the page is.

    Raises:
        InputError: `out` is not a .md file, or it or a plot exists and may not be overwritten.
    """
    if out.suffix != ".md":
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; the page is Markdown: name it .md")
    folder = out.with_suffix("")
    plotted = [(section, folder / section.picture) for section in sections(records, order) if section.points()]
    refuse_existing(out, overwrite)
    folder.mkdir(exist_ok=True)
    for _, picture in plotted:
        refuse_existing(picture, overwrite)
    for section, picture in plotted:
        plot_accuracy(
            section.points(),
            picture,
            title=f"{section.title}, {', '.join(section.networks)}",
            size_label="bytes: the set's file, or the images as plain uint8 or JPEG",
            overwrite=True,
        )
    write_text(out, page(records, folder.name, order))
    return [out, *(picture for _, picture in plotted)]


def _minus_accuracy(record: Record) -> tuple[float]:
    row = _row(record.card, DISTILLED, record.card.rows[0].network)
    return (1.0 if row is None or row.mean is None else -row.mean,)


_KEYS: dict[Order, Callable[[Record], tuple[Any, ...]]] = {
    "bytes": lambda record: (record.card.storage.file_bytes, record.card.name, record.key),
    "paper-bytes": lambda record: (record.card.storage.paper_bytes,),
    "accuracy": _minus_accuracy,
    "name": lambda record: (record.card.name,),
    "time": lambda record: (-int(re.sub(r"\D", "", record.time)),),
}
"""What rows are sorted by; ties by the bytes of their files, then by name."""


def _section_lines(section: Section, pictures: str) -> list[str]:
    numbered = list(enumerate(section.records, 1))
    lines = [[_plain(cell) for cell in cells] for number, record in numbered for cells in _cells(record, number)]
    card = section.records[0].card
    about = (
        f"{len(card.classes)} classes, images {' x '.join(map(str, card.image_shape))}, {card.num_test:,} test images"
    )
    compared = "" if card.protocol.comparable else "; not comparable with published numbers"
    table = TextTable(about + compared, COLUMNS, lines).markdown()
    title = _plain(section.title)
    image = [f"![Accuracy against bytes: {title}]({pictures}/{section.picture})", ""] if section.points() else []
    runs = [line for number, record in numbered for line in _run_lines(record, number)]
    return [f"## {title}", "", table, *image, "Runs:", "", *runs, ""]


def _cells(record: Record, number: int) -> Iterator[list[str]]:
    card, sizes = record.card, record.card.storage
    mean = next((mean for mean in card.unseen() if mean.name == DISTILLED), None)
    unseen = "" if mean is None else f"{mean.text} ({len(mean.networks)})"
    for network in dict.fromkeys(row.network for row in card.rows):
        row, random = _row(card, DISTILLED, network), _row(card, NAMES["random"], network)
        if row is None:
            continue
        difference = None if random is None else card.difference(random)
        share = card.recovery(row)
        yield [
            card.name + (f" ({card.recipe})" if card.recipe not in ("", card.name) else ""),
            network.name,
            f"{row.num_items:,}",
            f"{sizes.paper_bytes:,}",
            f"{sizes.file_bytes:,}",
            f"{sizes.bits_per_class:,.0f}",
            f"{sizes.external_bytes:,}",
            row.accuracy_text,
            _accuracy(random),
            difference.text if difference else "",
            _accuracy(_row(card, NAMES["random-uint8"], network)),
            _accuracy(_row(card, NAMES["initial"], network)),
            "" if share is None else f"{share:.0f}",
            unseen,
            *_ranking(card, network),
            f"{row.minutes:.2g}",
            f"[{number}]",
        ]
        unseen = ""  # one mean is of all networks, and stands with the first


def _run_lines(record: Record, number: int) -> list[str]:
    card = record.card
    seeds = ", ".join(map(str, card.seeds))
    run = f"{number}. {card.name}: {record.time[:10]}; commit {record.commit[:12]}; seeds {seeds}; {card.device}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(card.versions.items()))
    commands = [f"       {_plain(command)}" for command in (record.made_by, record.command) if command]
    return [f"{_plain(run)}; {_plain(versions)}", "", *commands, ""]


def _ranking(card: Scorecard, network: NetworkConfig) -> list[str]:
    """HLR and IOR in percentage points, LRS and ARS of fractions; "" for what a row is missing for."""
    scores = card.ranking(network)
    gaps = ["" if gap is None else gap.text for gap in (scores.hard_label_recovery, scores.improvement_over_random)]
    robust = (scores.label_robust, scores.augmentation_robust)
    return [*gaps, *("" if points is None else f"{normalised(points):.3f}" for points in robust)]


_VARIED = (NAMES["hard-labels"], NAMES["plain"], NAMES["random-plain"], NAMES["full"])


def _row(card: Scorecard, name: str, network: NetworkConfig) -> Row | None:
    return next((row for row in card.rows if (row.name, row.network) == (name, network)), None)


def _accuracy(row: Row | None) -> str:
    return "" if row is None else row.accuracy_text


def _plain(text: str) -> str:
    """On one line, and without what Markdown would take for a tag, a link or a picture."""
    return " ".join(text.split()).replace("<", "&lt;").replace("](", "]&#40;")
