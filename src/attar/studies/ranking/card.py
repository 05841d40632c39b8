"""How candidates rank: a frozen record that prints and draws itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator

from attar.base.config import Config, parse_config
from attar.evaluation.card import TextTable
from attar.evaluation.protocol import Protocol
from attar.evaluation.scorecard import DISTILLED, FULL
from attar.evaluation.statistics import mean_and_std
from attar.models.networks.network import NetworkConfig
from attar.studies.ranking.agreement import DRAWS, Draws, against_itself, interval, kendall, over_draws, spearman

if TYPE_CHECKING:
    from rich.table import Table

FEWEST = 3
FEW = 8
COLUMNS = ("ranked by", "items", "stored bytes", "Spearman", "Kendall", "its choice", "points lost by it")
METHOD = (
    "Spearman's rho and Kendall's tau-b of mean accuracies over seeds with those on all real images; 95 % percentile "
    f"intervals of {DRAWS} bootstrap draws of candidates and of seeds, both with replacement, the same for all rows: "
    "they say what other candidates like these might give, and are wide for few"
)


class Contender(Config):
    """A network and what is changed in its training.

    Args:
        network: with its depth resolved.
        settings: of the protocol's training, replaced.
    """

    network: NetworkConfig
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """E.g. "convnet:w32, learning_rate=0.1"."""
        return ", ".join([self.network.name, *(f"{key}={json.dumps(value)}" for key, value in self.settings.items())])


class Scores(Config):
    """What every candidate reaches when it is trained on one kind of items.

    Args:
        name: of the items, as in a scorecard.
        num_items: training items.
        num_bytes: as stored.
        accuracies: percent, [candidate][seed].
        note: what should be known about the items.
    """

    name: str
    num_items: int = Field(ge=1)
    num_bytes: int | None
    accuracies: tuple[tuple[float, ...], ...] = Field(min_length=FEWEST)
    note: str = ""

    @property
    def means(self) -> list[float]:
        """One for each candidate."""
        return [mean_and_std(each)[0] for each in self.accuracies]

    @property
    def best(self) -> int:
        """Place of the candidate with the highest mean; the first of several."""
        means = self.means
        return means.index(max(means))


class Correlation(Config):
    """A rank correlation, or a difference of two, and its interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """E.g. "+0.83 [+0.41, +1.00]"."""
        if self.value is None:
            return "undefined"
        return f"{self.value:+.2f}" + ("" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]")


class Agreement(Config):
    """How one kind of items ranks the candidates, against all real images.

    Args:
        name: of the items.
        spearman, kendall: with the ranking on all real images.
        choice: place of the candidate that these items choose.
        lost: percentage points on all real images between the best candidate and the one chosen.
        less: Spearman of the distilled set minus that of these items; None for the set itself.
    """

    name: str
    spearman: Correlation
    kendall: Correlation
    choice: int
    lost: float
    less: Correlation | None = None


class RankCard(Config):
    """Every candidate on every kind of items.

    Args:
        name: what the set is called here.
        recipe: that made it.
        data: name of the data.
        train_fingerprint, test_fingerprint: of its parts.
        num_test: test images.
        protocol: how candidates are trained on the set and on what is compared with it, before their own settings.
        reference: the same on all real images.
        seeds: the same for all.
        device, versions: of the measurement.
        candidates: at least 3.
        scores: all real images first, then the set, then real images of its bytes.
        agreements: of each but the first.
        itself: Spearman and Kendall of one seed on all real images with the mean of the others; None for one seed.
        notes: what a reader should know.
    """

    schema_version: Literal[1] = 1
    name: str
    recipe: str = ""
    data: str
    train_fingerprint: str
    test_fingerprint: str
    num_test: int = Field(ge=1)
    protocol: Protocol
    reference: Protocol
    seeds: tuple[int, ...] = Field(min_length=1)
    device: str
    versions: dict[str, str]
    candidates: tuple[Contender, ...] = Field(min_length=FEWEST)
    scores: tuple[Scores, ...] = Field(min_length=2)
    agreements: tuple[Agreement, ...]
    itself: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> RankCard:
        shape = len(self.candidates), len(self.seeds)
        for each in self.scores:
            if (len(each.accuracies), *{len(row) for row in each.accuracies}) != shape:
                raise ValueError(
                    f"{each.name} has not one accuracy for each of {shape[0]} candidates and {shape[1]} seeds"
                )
        if self.scores[0].name != FULL or [each.name for each in self.agreements] != [s.name for s in self.scores[1:]]:
            raise ValueError("agreements are those of all scores but the first, which is of all real images")
        return self

    @classmethod
    def of(cls, scores: Sequence[Scores], **about: object) -> RankCard:
        """With the agreements of these scores; the first is of all real images, the second of the set."""
        return cls.model_validate(
            {
                **about,
                "scores": tuple(scores),
                "agreements": tuple(agreements(scores)),
                "itself": against_itself(scores[0].accuracies),
            }
        )

    def agreement(self, name: str = DISTILLED) -> Agreement:
        """Of the items of that name. Raises KeyError."""
        for each in self.agreements:
            if each.name == name:
                return each
        raise KeyError(name)

    @property
    def title(self) -> str:
        """Set, data, candidates, protocol, seeds and device in one line."""
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "1 seed"
        reference = "" if self.reference == self.protocol else f" (all real images: {self.reference.label})"
        return (
            f"{len(self.candidates)} candidates ranked by {self.name} on {self.data} ({self.num_test} test images), "
            f"protocol {self.protocol.label}{reference}, {seeds}, {self.device}"
        )

    def lines(self) -> list[list[str]]:
        """The cells of the agreements, in the order of COLUMNS."""
        rows = []
        for scores, each in zip(self.scores[1:], self.agreements, strict=True):
            size = "" if scores.num_bytes is None else f"{scores.num_bytes:,}"
            choice = self.candidates[each.choice].name
            figures = [each.spearman.text, each.kendall.text, choice, f"{each.lost:.1f}"]
            rows.append([each.name, f"{scores.num_items:,}", size, *figures])
        return rows

    def score_lines(self) -> list[list[str]]:
        """The accuracies: a row for each candidate, the best on all real images first."""
        means = self.scores[0].means
        order = sorted(range(len(means)), key=lambda place: -means[place])
        return [
            [self.candidates[place].name, *(_accuracy(scores.accuracies[place]) for scores in self.scores)]
            for place in order
        ]

    @property
    def score_columns(self) -> tuple[str, ...]:
        """Headings of the accuracies."""
        return ("candidate", *(f"{scores.name}, %" for scores in self.scores))

    def remarks(self) -> list[str]:
        """How it was measured, what seeds allow, and every note."""
        lines = [METHOD]
        if self.itself is not None:
            lines.append(
                f"one seed on all real images against the mean of the others: Spearman {self.itself[0]:+.2f}, Kendall "
                f"{self.itself[1]:+.2f} (mean over seeds): more agreement than that is chance"
            )
        for each in self.agreements:
            if each.less is not None:
                lines.append(f"Spearman of the set minus that of {each.name}: {each.less.text}")
        told = [f"{scores.name}: {scores.note}" for scores in self.scores if scores.note]
        return [*lines, *self.notes, *told]

    def as_tables(self) -> list[Table]:
        """Accuracies, and agreements with all remarks, as tables for rich."""
        return [
            TextTable(self.title, self.score_columns, self.score_lines(), []).rich(),
            TextTable("agreement with the ranking on all real images", COLUMNS, self.lines(), self.remarks()).rich(),
        ]

    def as_markdown(self) -> str:
        """Both tables as markdown."""
        accuracies = TextTable(self.title, self.score_columns, self.score_lines(), []).markdown()
        title = "agreement with the ranking on all real images"
        return f"{accuracies}\n{TextTable(title, COLUMNS, self.lines(), self.remarks()).markdown()}"

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> RankCard:
        """What `to_json` wrote. Raises InputError for anything else."""
        return parse_config(cls, text, "rank card")

    def plot(self, out: Path | str, *, overwrite: bool = False) -> Path:
        """Write a PNG of every candidate's accuracy on the items against that on all real images.

        Raises:
            InputError: an existing `out`, or no .png.
        """
        from attar.evaluation.plots import Series, plot_agreement

        x, x_std = zip(*(mean_and_std(each) for each in self.scores[0].accuracies), strict=True)
        clouds = []
        for scores, agreement in zip(self.scores[1:], self.agreements, strict=True):
            y, y_std = zip(*(mean_and_std(each) for each in scores.accuracies), strict=True)
            series = f"{scores.name}, Spearman {agreement.spearman.text}"
            clouds.append(Series(series, x, y, y_std, x_std))
        return plot_agreement(clouds, out, title=self.title, overwrite=overwrite)


def agreements(scores: Sequence[Scores]) -> list[Agreement]:
    """Of each but the first with the first, all from the same bootstrap draws.

    Args:
        scores: of all real images, of the set, of whatever is compared with the set.
    """
    tables = [torch.tensor(each.accuracies, dtype=torch.float64) for each in scores]
    draws = Draws.of(*tables[0].shape)
    drawn = [draws.means(table) for table in tables]
    full, found = scores[0].means, list[Agreement]()
    main = over_draws(spearman, drawn[1], drawn[0])
    for place in range(1, len(scores)):
        rho, tau = (over_draws(measure, drawn[place], drawn[0]) for measure in (spearman, kendall))
        means = [torch.tensor(each.means, dtype=torch.float64) for each in (scores[place], scores[0])]
        choice = scores[place].best
        own = _correlation(float(spearman(*means)), rho)
        less = None
        if found:
            values = found[0].spearman.value, own.value
            both = None if None in values else values[0] - values[1]  # type: ignore[operator]
            less = _correlation(float("nan") if both is None else both, main - rho)
        found.append(
            Agreement(
                name=scores[place].name,
                spearman=own,
                kendall=_correlation(float(kendall(*means)), tau),
                choice=choice,
                lost=max(full) - full[choice],
                less=less,
            )
        )
    return found


def _correlation(value: float, draws: torch.Tensor) -> Correlation:
    if value != value:
        return Correlation(value=None, low=None, high=None)
    low, high = interval(draws)
    return Correlation(value=value, low=low, high=high)


def _accuracy(values: Sequence[float]) -> str:
    mean, std = mean_and_std(values)
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
