"""Scorecards for the page: which file each is of, and what is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from attar.base.errors import InputError
from attar.base.files import set_name
from attar.evaluation.compare import Comparison
from attar.evaluation.plots import Point
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DISTILLED, Scorecard
from attar.models.networks.network import NetworkConfig
from attar.sets.class_columns import in_order_of
from attar.sets.distilled import DistilledSet

LARGEST_FILE = 64_000_000
LARGEST_COUNT = 2**60


def read_cards(path: Path) -> list[Scorecard]:
    """Read the scorecards in a file that `evaluate --json` or `compare --out x.json` wrote. Raises InputError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path} has more than {LARGEST_FILE:,} bytes and is no scorecard; evaluate anew")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path} cannot be read as a scorecard; give what attar evaluate --json wrote") from None
    try:
        several = "cards" in json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{path} is not JSON; give what attar evaluate --json wrote") from None
    cards = list(Comparison.from_json(text).cards) if several else [Scorecard.from_json(text)]
    for card in cards:
        sizes = card.storage
        counts = (card.num_test, sizes.paper_bytes, sizes.file_bytes, sizes.external_bytes)
        if not all(0 <= count < LARGEST_COUNT for count in counts):
            raise InputError(f"{path.name}: a size or count of the set is out of range; evaluate anew")
        for row in card.rows:
            _check(row, path)
    return cards


def card_owners(
    cards: Sequence[Scorecard], files: Sequence[Path], sets: Sequence[DistilledSet]
) -> list[list[Scorecard]]:
    """Return for each file the cards that were measured on it.

    A card is of the file with the set's fingerprint that it names, whatever metadata were changed since. Of two such
    files it is of the one whose name it has. The data may be other: a merged set is measured on data that no party had.

    Raises:
        InputError: a card of none of the files, or of more than one.
    """
    owned: list[list[Scorecard]] = [[] for _ in files]
    fingerprint = cache(lambda place, classes: _fingerprint(sets[place], classes))
    for card in cards:
        fitting = [place for place in range(len(sets)) if fingerprint(place, card.classes) == card.set_fingerprint]
        if len(fitting) > 1:
            fitting = [place for place in fitting if set_name(files[place]) == card.name]
        if not fitting:
            raise InputError(
                f"the scorecard of {card.name!r} was measured on none of these files (it judged a set of fingerprint "
                f"{card.set_fingerprint[:12]}...); give its file, or leave it out"
            )
        if len(fitting) > 1:
            raise InputError(f"the scorecard of {card.name!r} fits several of these files; give one of them at a time")
        owned[fitting[0]].append(card)
    return owned


def how_it_fits(card: Scorecard, distilled: DistilledSet) -> str | None:
    """Say that the file has changed since the card was made; None where it has not."""
    if card.storage == distilled.storage:
        return None
    return (
        f"The scorecard {card.name} judged what training sees of this file, by its fingerprint "
        f"{card.set_fingerprint[:12]}...; what else is in the file has changed since, which had "
        f"{card.storage.file_bytes:,} bytes then and has {distilled.file_bytes:,} now."
    )


def networks_of(card: Scorecard) -> list[NetworkConfig]:
    """Return the networks of a card, in its order."""
    return list(dict.fromkeys(row.network for row in card.rows))


def rows_of(card: Scorecard, network: NetworkConfig) -> list[Row]:
    """Return the measured rows of one network."""
    return [row for row in card.rows if row.network == network and row.mean is not None]


def accuracy_points(cards: Sequence[Scorecard], network: NetworkConfig) -> list[Point]:
    """Return a point for each card's set and each of its baselines, on one network, at the bytes really stored."""
    points = [
        Point(
            card.name if row.name == DISTILLED else row.name,
            row.num_bytes,
            row.mean or 0.0,
            row.std,
            baseline=row.name != DISTILLED,
        )
        for card in cards
        for row in rows_of(card, network)
        if row.num_bytes
    ]
    return sorted(dict.fromkeys(points), key=lambda point: point.baseline)


def alike(cards: Sequence[Scorecard]) -> list[list[Scorecard]]:
    """Group the cards that may be read side by side: those of the same protocol, seeds and data."""
    groups: dict[tuple[object, ...], list[Scorecard]] = {}
    for card in cards:
        key = (card.protocol.model_dump_json(), card.seeds, card.test_fingerprint, card.train_fingerprint)
        groups.setdefault(key, []).append(card)
    return list(groups.values())


def _fingerprint(distilled: DistilledSet, classes: tuple[str, ...]) -> str:
    """Return the fingerprint with the classes in a card's order, in which `compare` may have judged the set; or ""."""
    if set(distilled.classes) != set(classes):
        return ""
    try:
        return in_order_of(distilled, classes).fingerprint
    except InputError:  # labels that come in their observer's order alone
        return ""


def _check(row: Row, path: Path) -> None:
    """Raise InputError for numbers that no evaluation gives, which would spoil the drawings."""
    counts = [row.num_items, row.paper_bytes or 0, row.num_bytes or 0, row.images_seen or 0, *row.curve_epochs]
    counts += [count for line in row.confusion for count in line]
    percents = [*row.accuracies, *(percent for percent in row.per_class if percent is not None)]
    percents += [percent for curve in row.curves for percent in curve]
    if not all(0 <= count < LARGEST_COUNT for count in counts) or not all(0 <= percent <= 100 for percent in percents):
        raise InputError(f"{path.name}: row {row.name[:60]!r} has a number out of range; evaluate anew")
