"""Several sets on the same data under the same protocol: one table, one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from attar.base.engines.engine import Engine
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.base.progress import Progress
from attar.evaluation.baselines import baseline_kinds
from attar.evaluation.card import Card
from attar.evaluation.evaluate import Conditions, NetworkNames, check_fit, check_set, judge, learned_rate, load_splits
from attar.evaluation.plots import Point, plot_accuracy
from attar.evaluation.protocol import Protocol
from attar.evaluation.scorecard import COLUMNS, DISTILLED, Scorecard
from attar.evaluation.variants import online_observer
from attar.sets.class_columns import in_order_of
from attar.sets.distilled import DistilledSet

SIZE_LABELS = {
    "file": "bytes: the set's file, or the images as plain uint8",
    "paper": "bytes by the papers' convention: 4 for every stored value",
}
SAME_SIZE = 0.01


class Comparison(Card):
    """Scorecards that may be read side by side.

    Args:
        cards: at least one, the smallest file first; same data, protocol, seeds and device.
    """

    noun = "comparison"

    cards: tuple[Scorecard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _side_by_side(self) -> Comparison:
        first = self.cards[0]
        for card in self.cards[1:]:
            for name in ("test_fingerprint", "train_fingerprint", "protocol", "seeds", "device"):
                if getattr(card, name) != getattr(first, name):
                    raise InputError(
                        f"the scorecards of {first.name!r} and {card.name!r} differ in {name}; evaluate anew"
                    )
        return self

    @property
    def title(self) -> str:
        """Data, protocol, seeds and device in one line."""
        return self.cards[0].title.replace(self.cards[0].name, f"{len(self.cards)} sets", 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The set's name, then COLUMNS."""
        return ("set", *COLUMNS)

    def lines(self) -> list[list[str]]:
        """The lines of all cards, each with its card's name before it."""
        return [[card.name, *cells] for card in self.cards for cells in card.lines()]

    def remarks(self) -> list[str]:
        """A warning where sizes differ, then the remarks of all cards."""
        sizes = [card.storage.paper_bytes for card in self.cards]
        warning = []
        if max(sizes) > (1 + SAME_SIZE) * min(sizes):
            warning = ["these sets differ in size: hold each against its own baselines rather than against the others"]
        of_cards = [card.remarks() for card in self.cards]
        shared = set.intersection(*map(set, of_cards))
        labelled = [
            remark if remark in shared else f"{card.name}: {remark}"
            for card, remarks in zip(self.cards, of_cards, strict=True)
            for remark in remarks
        ]
        return list(dict.fromkeys(warning + labelled))

    def points(self, size: Literal["file", "paper"] = "file") -> list[Point]:
        """The plot's points on the first network: one for each set, and quieter ones for the baselines.

        Args:
            size: which bytes: as really stored, or by the papers' convention.
        """
        network = self.cards[0].rows[0].network
        points = []
        for card in self.cards:
            for row in card.rows:
                num_bytes = row.paper_bytes if size == "paper" else row.num_bytes
                if row.network == network and row.mean is not None and num_bytes:
                    baseline = row.name != DISTILLED
                    series = row.name if baseline else card.name
                    points.append(Point(series, num_bytes, row.mean, row.std, row.training_minutes, baseline))
        return sorted(dict.fromkeys(points), key=lambda point: point.baseline)

    def plot(self, out: Path | str, *, size: Literal["file", "paper"] = "file", overwrite: bool = False) -> Path:
        """Write a PNG of accuracy against bytes and against minutes. Raises InputError for an existing `out`.

        Source: D3 Figure 1.
        """
        network = self.cards[0].rows[0].network.name
        return plot_accuracy(
            self.points(size),
            out,
            title=f"{self.title}, {network}",
            size_label=SIZE_LABELS[size],
            minutes_label=f"minutes of training one network ({self.cards[0].device})",
            chance=100 / len(self.cards[0].classes),
            overwrite=overwrite,
        )


def compare(
    sets: Sequence[DistilledSet | Path | str],
    data: Any,
    protocol: str | Path | Protocol = "quick",
    *,
    networks: NetworkNames | None = None,
    seeds: int | Sequence[int] | None = None,
    baselines: bool | Sequence[str] = True,
    flip: bool | None = None,
    device: str = "auto",
    cache: bool = True,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
    engine: Engine | None = None,
    curves: bool = False,
) -> Comparison:
    """Evaluate several sets on the same data; `Comparison.plot` draws the result.

    All sets are read and checked before the first network is trained. Those whose classes are the data's in another
    order, as a merged set's may be, are put into the data's order. Baselines that two sets share are computed once
    (with `cache`).

    Args:
        sets: sets or files, at least one.
        data: see `evaluate`, as for all that is not listed here.
        names: what the sets are called; None takes the files' names.

    Raises:
        InputError: no sets, or one that does not fit the data or cannot be trained on.
    """
    if not sets or isinstance(sets, str | Path | DistilledSet):
        raise InputError("compare needs a list of distilled sets; give at least one")
    if names is not None and len(names) != len(sets):
        raise InputError(f"{len(names)} names were given for {len(sets)} sets; give one for each")
    kinds = baseline_kinds(baselines)
    conditions = Conditions.of(protocol, networks, seeds, flip, device, cache, progress, engine, curves)
    loaded = [DistilledSet.load(source) if isinstance(source, str | Path) else source for source in sets]
    splits = load_splits(data, conditions.progress)
    loaded = [in_order_of(distilled, splits.train.classes) for distilled in loaded]
    for distilled in loaded:
        check_set(distilled, conditions)
        check_fit(distilled, splits)
        learned_rate(distilled, conditions.protocol)
        online_observer(distilled)
    names = names or _names(sets)
    cards = [judge(distilled, splits, conditions, kinds, name) for distilled, name in zip(loaded, names, strict=True)]
    return Comparison(cards=tuple(sorted(cards, key=lambda card: card.storage.file_bytes)))


def _names(sets: Sequence[DistilledSet | Path | str]) -> list[str]:
    """File names without endings; those that occur twice get a number."""
    names = [set_name(source) if isinstance(source, str | Path) else source.name for source in sets]
    return [
        f"{name} #{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
