"""What was measured, on what, how: a frozen record that prints itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.card import Card, seeds_text
from attar.evaluation.protocol import Protocol
from attar.evaluation.ranking import Ranking, ranking_of, ranking_remarks
from attar.evaluation.rows import DISTILLED, FULL, Row
from attar.evaluation.statistics import paired_interval
from attar.evaluation.unseen import UnseenMean, unseen_means
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import Plan, TrainingConfig, images_seen
from attar.sets.sizes import Storage

COLUMNS = (
    "trained on",
    "network",
    "items",
    "paper bytes",
    "stored bytes",
    "accuracy %",
    "distilled minus row",
    "images seen",
    "minutes",
)
COSTS = (
    "images seen: by one network in all of its training, epoch by epoch; "
    "minutes: training and testing of all seeds' networks on the device above"
)
NOISE = "within noise"
SPREADLESS = 1e-9
"""Percentage points: an interval narrower than this has seen no spread, which so few seeds cannot show."""

DIFFERENCES = (
    "differences are percentage points paired by seed, with a 95 % confidence interval (Student's t) "
    "that is not corrected for the number of rows"
)


class Difference(Config):
    """The distilled row minus a baseline row on the same network, paired by seed.

    Args:
        network: of both rows.
        baseline: name of the row subtracted.
        mean: percentage points.
        low, high: the 95 % confidence interval (paired t); None for a single seed.
        words: what the interval allows one to say; "" in cards of earlier versions.
    """

    network: NetworkConfig
    baseline: str
    mean: float
    low: float | None
    high: float | None
    words: str = ""

    @model_validator(mode="after")
    def _words_are_those_of_the_interval(self) -> Difference:
        if self.words not in ("", self.verdict):
            raise ValueError(f"a difference said to be {self.words!r} is {self.verdict!r} by its interval")
        return self

    @classmethod
    def between(cls, row: Row, baseline: Row) -> Difference:
        """`row` minus `baseline`, both with the same seeds."""
        return cls.paired(row.accuracies, baseline.accuracies, row.network, baseline.name)

    @classmethod
    def paired(
        cls, first: Sequence[float], second: Sequence[float], network: NetworkConfig, baseline: str
    ) -> Difference:
        """`first` minus `second`, seed by seed."""
        mean, low, high = paired_interval(first, second)
        made = cls(network=network, baseline=baseline, mean=mean, low=low, high=high)
        return made.model_copy(update={"words": made.verdict})

    @property
    def verdict(self) -> Literal["better", "worse", "within noise", "one seed: unknown", "no spread seen: unknown"]:
        """What the interval allows one to say."""
        if self.low is None or self.high is None:
            return "one seed: unknown"
        if self.low <= 0 <= self.high:
            return "within noise"
        if self.high - self.low < SPREADLESS:
            return "no spread seen: unknown"
        return "better" if self.mean > 0 else "worse"

    @property
    def text(self) -> str:
        """E.g. "+4.1 [1.0, 7.2] better"."""
        interval = f" [{self.low:+.1f}, {self.high:+.1f}]" if self.low is not None else ""
        return f"{self.mean:+.1f}{interval} {self.verdict}"


class Scorecard(Card):
    """All rows of one set under one protocol.

    Args:
        name: what the set is called here.
        recipe: name of the recipe that made it, if it says so.
        classes: in the order of the labels.
        image_shape: (C, H, W).
        storage: the set's four sizes.
        protocol: every setting, as used.
        data: name of the data set.
        test_fingerprint, train_fingerprint: of its two parts.
        num_test: test images.
        seeds: of the networks; also of the baselines' draws.
        device: on which the networks were trained.
        versions: attar, torch.
        rows: the distilled set first, then the baselines, network by network.
        differences: the distilled row minus each baseline.
        notes: what a reader should know before believing a number.
        labels: the set's; None in cards of earlier versions.
        distilled_with: the networks that its recipe distils with; none where it does not say.
        set_fingerprint: `DistilledSet.fingerprint` of the set that was judged; "" in cards of earlier versions.

    Raises:
        ValueError: rows of other seeds than the card's, or differences that are not those of the rows.
    """

    noun = "scorecard"

    name: str
    recipe: str = ""
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    storage: Storage
    protocol: Protocol
    data: str
    test_fingerprint: str
    train_fingerprint: str
    num_test: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    device: str
    versions: dict[str, str]
    rows: tuple[Row, ...] = Field(min_length=1)
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    labels: Literal["hard", "soft", "regions"] | None = None
    distilled_with: tuple[NetworkConfig, ...] = ()
    set_fingerprint: str = Field(default="", pattern="^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _rows_can_be_compared(self) -> Scorecard:
        rows = {(row.network, row.name): row for row in self.rows if row.absent is None}
        for row in rows.values():
            if row.seeds != self.seeds:
                raise ValueError(f"row {row.name!r} has other seeds than the card")
        for told in self.differences:
            own, other = rows.get((told.network, DISTILLED)), rows.get((told.network, told.baseline))
            found = None if own is None or other is None else paired_interval(own.accuracies, other.accuracies)
            if found != (told.mean, told.low, told.high):
                raise ValueError(f"the difference from {told.baseline!r} is not that of the rows")
        return self

    def row(self, name: str = DISTILLED, network: NetworkConfig | None = None) -> Row:
        """The row of that name on that network, or on the first network. Raises KeyError."""
        for row in self.rows:
            if row.name == name and network in (None, row.network):
                return row
        raise KeyError(name)

    def difference(self, row: Row) -> Difference | None:
        """The distilled row minus `row`, or None."""
        found = (each for each in self.differences if (each.baseline, each.network) == (row.name, row.network))
        return next(found, None)

    def images_seen(self, row: Row) -> int | None:
        """As of `row`, or for a card of an earlier version what its protocol says; None for an absent row."""
        if row.absent is not None or row.images_seen is not None:
            return row.images_seen
        return images_seen(self.protocol.training, row.num_items)

    def recovery(self, row: Row) -> float | None:
        """The row's accuracy in percent of that of all real images under the same protocol; None without such a row.

        Source: D3 section 2.1, recovery accuracy; its introduction gives SRe2L's in percent of full training.
        """
        full = next((each for each in self.rows if (each.name, each.network) == (FULL, row.network)), None)
        if full is None or not full.mean or row.mean is None:
            return None
        return 100 * row.mean / full.mean

    def unseen(self) -> list[UnseenMean]:
        """Each row's mean over the networks that the set was not distilled with."""
        return unseen_means(self.rows, self.distilled_with)

    def ranking(self, network: NetworkConfig | None = None) -> Ranking:
        """DD-Ranking's scores on that network, or on the first. Raises ValueError for a card that names no labels."""
        if self.labels is None:
            raise ValueError("a card of an earlier version does not say which labels the set has")
        wanted = network or self.rows[0].network
        return ranking_of([row for row in self.rows if row.network == wanted], self.labels)

    @property
    def title(self) -> str:
        """Set, data, protocol, seeds and device in one line."""
        return (
            f"{self.name} on {self.data} ({self.num_test} test images), protocol {self.protocol.label}, "
            f"{seeds_text(self.seeds)}, {self.device}"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """COLUMNS."""
        return COLUMNS

    def lines(self) -> list[list[str]]:
        """The table's cells, in the order of COLUMNS; means over two or more unseen networks come last."""
        rows = [_cells(row, self.difference(row), self.images_seen(row), self.recovery(row)) for row in self.rows]
        means = [each for each in self.unseen() if len(each.networks) > 1]
        return rows + [_mean_cells(each, means) for each in means]

    def remarks(self) -> list[str]:
        """Sizes, then every note of the card and of its rows, each once."""
        told = [f"{row.name}: {row.absent or row.note}" for row in self.rows if row.absent or row.note]
        differences = [DIFFERENCES, *self._noise()] if self.differences else []
        ranking = [] if self.labels is None else ranking_remarks(self.rows, self.labels)
        listed = [sizes_text(self.storage), *self.notes, COSTS, *differences, *self._unseen_text(), *ranking, *told]
        return list(dict.fromkeys(listed))

    def _noise(self) -> list[str]:
        """Which differences say nothing, in words."""
        same = [f"{each.baseline} ({each.network.name})" for each in self.differences if each.verdict == NOISE]
        if not same:
            return []
        return [f"{NOISE}, because the interval contains 0, is the difference from: {', '.join(same)}"]

    def _unseen_text(self) -> list[str]:
        means = self.unseen()
        if not means:
            return []
        names = ", ".join(network.name for network in means[0].networks)
        seen = ", ".join(dict.fromkeys(network.kind for network in self.distilled_with))
        return [f"unseen architectures: {names}; the set was distilled with networks of kind {seen}"]


def exposure(training: TrainingConfig, num_items: int) -> dict[str, int]:
    """What a row says of how long one network is trained on so many items."""
    plan = Plan.of(training, num_items)
    return {"images_seen": images_seen(training, num_items), "num_epochs": plan.num_epochs}


def sizes_text(storage: Storage) -> str:
    """The four sizes of a set in one line."""
    external = "; ".join(f"{weights.id} ({_bytes(weights.num_bytes)} bytes)" for weights in storage.external) or "none"
    return (
        f"sizes: {_bytes(storage.paper_bytes)} bytes by the papers' convention (4 for every value), "
        f"{_bytes(storage.file_bytes)} bytes of file, {storage.bits_per_class:,.0f} bits per class, "
        f"external weights: {external}"
    )


def _cells(row: Row, difference: Difference | None, seen: int | None, recovery: float | None) -> list[str]:
    share = f" ({recovery:.0f} % of full)" if recovery is not None and row.name != FULL else ""
    return [
        row.name,
        row.network.name,
        str(row.num_items) if row.absent is None else "",
        _bytes(row.paper_bytes),
        _bytes(row.num_bytes),
        row.accuracy_text + share,
        difference.text if difference else "",
        _bytes(seen),
        f"{row.minutes:.2g}" if row.absent is None else "",
    ]


def _mean_cells(mean: UnseenMean, means: Sequence[UnseenMean]) -> list[str]:
    own = next((each for each in means if each.name == DISTILLED), None)
    difference = ""
    if own is not None and own is not mean:
        difference = Difference.paired(own.accuracies, mean.accuracies, mean.networks[0], mean.name).text
    network = f"mean of {len(mean.networks)} unseen"
    return [mean.name, network, "", "", "", mean.text, difference, "", ""]


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
