"""The scorecard: a frozen record of what was measured, on what and how, that prints itself."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.card import Card, seeds_text
from attar.evaluation.dd_ranking import Ranking, ranking_of, ranking_remarks
from attar.evaluation.protocol import LabelsKind, Protocol
from attar.evaluation.rows import DISTILLED, FULL, Row, find_row, row_remarks
from attar.evaluation.statistics import NOISE, Interval, Verdict, paired_interval
from attar.evaluation.unseen import UnseenMean, unseen_means
from attar.models.networks.network import NetworkConfig
from attar.sets.manifest import Sha256
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
        words: what the interval allows one to say.
    """

    network: NetworkConfig
    baseline: str
    mean: float
    low: float | None
    high: float | None
    words: str

    @model_validator(mode="after")
    def _words_are_those_of_the_interval(self) -> Difference:
        if self.words != self.verdict:
            raise ValueError(f"a difference said to be {self.words!r} is {self.verdict!r} by its interval")
        return self

    @classmethod
    def between(cls, row: Row, baseline: Row) -> Difference:
        """`row` minus `baseline`, both with the same seeds."""
        interval = paired_interval(row.accuracies, baseline.accuracies)
        return cls(network=row.network, baseline=baseline.name, words=interval.verdict, **interval._asdict())

    @property
    def interval(self) -> Interval:
        """Mean, low and high."""
        return Interval(self.mean, self.low, self.high)

    @property
    def verdict(self) -> Verdict:
        """The words that the interval allows."""
        return self.interval.verdict

    @property
    def text(self) -> str:
        """E.g. "+4.1 [1.0, 7.2] better"."""
        return f"{self.interval.text} {self.verdict}"


class Scorecard(Card):
    """All rows of one set under one protocol.

    Args:
        name, recipe, classes, image_shape, storage, labels: of the set; the recipe is "" where the set does not say it.
        protocol: every setting, as used.
        data, test_fingerprint, train_fingerprint, num_test: of the real images.
        seeds: of the networks; also of the baselines' draws.
        device, versions: on and with which the networks were trained.
        rows: the distilled set first, then the baselines, network by network.
        differences: the distilled row minus each baseline.
        notes: what a reader should know before believing a number.
        distilled_with: the networks that the set's recipe distils with; none where it does not say.
        set_fingerprint: `DistilledSet.fingerprint` of the set that was judged.

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
    labels: LabelsKind
    distilled_with: tuple[NetworkConfig, ...] = ()
    set_fingerprint: Sha256

    @model_validator(mode="after")
    def _rows_can_be_compared(self) -> Scorecard:
        rows = {(row.network, row.name): row for row in self.rows if row.absent is None}
        for row in rows.values():
            if row.seeds != self.seeds:
                raise ValueError(f"row {row.name!r} has other seeds than the card")
        for difference in self.differences:
            distilled, baseline = (rows.get((difference.network, name)) for name in (DISTILLED, difference.baseline))
            measured = distilled and baseline and paired_interval(distilled.accuracies, baseline.accuracies)
            if difference.interval != measured:
                raise ValueError(f"the difference from {difference.baseline!r} is not that of the rows")
        return self

    def row(self, name: str = DISTILLED, network: NetworkConfig | None = None) -> Row:
        """The row of that name on that network, or on the first network. Raises KeyError."""
        return find_row(self.rows, name, network)

    def difference(self, row: Row) -> Difference | None:
        """The distilled row minus `row`, or None."""
        pairs = {(difference.baseline, difference.network): difference for difference in self.differences}
        return pairs.get((row.name, row.network))

    def recovery(self, row: Row) -> float | None:
        """The row's accuracy in percent of that of all real images under the same protocol; None without such a row.

        Source: D3 section 2.1, recovery accuracy; its introduction gives SRe2L's in percent of full training.
        """
        full = [other.mean for other in self.rows if (other.name, other.network) == (FULL, row.network)]
        return 100 * row.mean / full[0] if full and full[0] and row.mean is not None else None

    def unseen(self) -> list[UnseenMean]:
        """Each row's mean over the networks that the set was not distilled with."""
        return unseen_means(self.rows, self.distilled_with)

    def ranking(self, network: NetworkConfig | None = None) -> Ranking:
        """DD-Ranking's scores on that network, or on the first."""
        network = network or self.rows[0].network
        return ranking_of([row for row in self.rows if row.network == network], self.labels)

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
        means = [mean for mean in self.unseen() if len(mean.networks) > 1]
        return [self._cells(row) for row in self.rows] + [_mean_cells(mean, means) for mean in means]

    def remarks(self) -> list[str]:
        """Sizes, then every note of the card and of its rows, each once."""
        remarks = [sizes_text(self.storage), *self.notes, COSTS]
        if self.differences:
            remarks.append(DIFFERENCES)
        noise = [difference for difference in self.differences if difference.verdict == NOISE]
        if noise:
            names = ", ".join(f"{difference.baseline} ({difference.network.name})" for difference in noise)
            remarks.append(f"{NOISE}, because the interval contains 0, is the difference from: {names}")
        remarks += [*self._unseen_text(), *ranking_remarks(self.rows, self.labels), *row_remarks(self.rows)]
        return list(dict.fromkeys(remarks))

    def _cells(self, row: Row) -> list[str]:
        difference, recovery = self.difference(row), self.recovery(row)
        share = f" ({recovery:.0f} % of full)" if recovery is not None and row.name != FULL else ""
        return [
            row.name,
            row.network.name,
            str(row.num_items) if row.absent is None else "",
            _count(row.paper_bytes),
            _count(row.num_bytes),
            row.accuracy_text + share,
            difference.text if difference else "",
            _count(row.images_seen),
            f"{row.minutes:.2g}" if row.absent is None else "",
        ]

    def _unseen_text(self) -> list[str]:
        means = self.unseen()
        if not means:
            return []
        names = ", ".join(network.name for network in means[0].networks)
        families = ", ".join(dict.fromkeys(network.kind for network in self.distilled_with))
        return [f"unseen architectures: {names}; the set was distilled with networks of kind {families}"]


def sizes_text(storage: Storage) -> str:
    """The four sizes of a set in one line."""
    external = "; ".join(f"{weights.id} ({weights.num_bytes:,} bytes)" for weights in storage.external) or "none"
    return (
        f"sizes: {storage.paper_bytes:,} bytes by the papers' convention (4 for every value), "
        f"{storage.file_bytes:,} bytes of file, {storage.bits_per_class:,.0f} bits per class, "
        f"external weights: {external}"
    )


def _mean_cells(mean: UnseenMean, means: Sequence[UnseenMean]) -> list[str]:
    """The line of a mean over unseen networks; its difference is from that of the distilled row."""
    difference = ""
    for distilled in means:
        if distilled.name == DISTILLED and distilled is not mean:
            interval = paired_interval(distilled.accuracies, mean.accuracies)
            difference = f"{interval.text} {interval.verdict}"
    return [mean.name, f"mean of {len(mean.networks)} unseen", "", "", "", mean.text, difference, "", ""]


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
