"""How candidates rank: a frozen record that prints and draws itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.card import Card, TextTable, seeds_text
from attar.evaluation.protocol import Protocol
from attar.evaluation.rows import DISTILLED, FULL
from attar.evaluation.statistics import mean_and_std, spread_text
from attar.models.networks.network import NetworkConfig
from attar.studies.ranking.agreement import DRAWS, Draws, against_itself, interval, kendall, over_draws, spearman

FEWEST = 3
FEW = 8
COLUMNS = ("ranked by", "items", "stored bytes", "Spearman", "Kendall", "its choice", "points lost by it")
METHOD = (
    "Spearman's rho and Kendall's tau-b of mean accuracies over seeds with those on all real images; 95 % percentile "
    f"intervals of {DRAWS} bootstrap draws of candidates and of seeds, both with replacement, the same for all rows: "
    "they say what other candidates like these might give, and are wide for few"
)


class Contender(Config):
    """A network with its depth resolved, and the settings that are replaced in the protocol's training."""

    network: NetworkConfig
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """E.g. "convnet:w32, learning_rate=0.1"."""
        return ", ".join([self.network.name, *(f"{key}={json.dumps(value)}" for key, value in self.settings.items())])


class Scores(Config):
    """What every candidate reaches when it is trained on one kind of items.

    Args:
        name, num_items, num_bytes, note: of the items, as in a scorecard.
        accuracies: percent, [candidate][seed].
    """

    name: str
    num_items: int = Field(ge=1)
    num_bytes: int | None
    accuracies: tuple[tuple[float, ...], ...] = Field(min_length=FEWEST)
    note: str = ""

    @property
    def means(self) -> list[float]:
        """One for each candidate."""
        return [mean_and_std(accuracies)[0] for accuracies in self.accuracies]

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

    @classmethod
    def of(cls, value: torch.Tensor, draws: torch.Tensor) -> Correlation:
        """The value with the interval of its bootstrap draws [D]."""
        if value.isnan():
            return cls(value=None, low=None, high=None)
        low, high = interval(draws)
        return cls(value=float(value), low=low, high=high)

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


class RankCard(Card):
    """Every candidate on every kind of items.

    Args:
        name, recipe: what the set is called here, and what made it.
        data, train_fingerprint, test_fingerprint, num_test: name of the data, its parts and its number of test images.
        protocol: how candidates are trained on the set and on what is compared with it, before their own settings.
        reference: the same on all real images.
        scores: all real images first, then the set, then real images of its bytes.
        agreements: of each but the first.
        itself: Spearman and Kendall of one seed on all real images with the mean of the others; None for one seed.
    """

    noun = "rank card"

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
        for scores in self.scores:
            if (len(scores.accuracies), *{len(row) for row in scores.accuracies}) != shape:
                raise ValueError(
                    f"{scores.name} has not one accuracy for each of {shape[0]} candidates and {shape[1]} seeds"
                )
        first, *others = (scores.name for scores in self.scores)
        if first != FULL or [agreement.name for agreement in self.agreements] != others:
            raise ValueError("agreements are those of all scores but the first, which is of all real images")
        return self

    @classmethod
    def of(cls, scores: Sequence[Scores], **about: object) -> RankCard:
        """With the agreements of these scores; the first is of all real images, the second of the set."""
        itself = against_itself(scores[0].accuracies)
        return cls.model_validate(
            {**about, "scores": tuple(scores), "agreements": tuple(agreements(scores)), "itself": itself}
        )

    def agreement(self, name: str = DISTILLED) -> Agreement:
        """Of the items of that name. Raises KeyError."""
        for agreement in self.agreements:
            if agreement.name == name:
                return agreement
        raise KeyError(name)

    @property
    def title(self) -> str:
        reference = "" if self.reference == self.protocol else f" (all real images: {self.reference.label})"
        return (
            f"{len(self.candidates)} candidates ranked by {self.name} on {self.data} ({self.num_test} test images), "
            f"protocol {self.protocol.label}{reference}, {seeds_text(self.seeds)}, {self.device}"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def lines(self) -> list[list[str]]:
        """The agreements."""
        return [
            [
                agreement.name,
                f"{scores.num_items:,}",
                "" if scores.num_bytes is None else f"{scores.num_bytes:,}",
                agreement.spearman.text,
                agreement.kendall.text,
                self.candidates[agreement.choice].name,
                f"{agreement.lost:.1f}",
            ]
            for scores, agreement in zip(self.scores[1:], self.agreements, strict=True)
        ]

    def score_lines(self) -> list[list[str]]:
        """The accuracies: a row for each candidate, the best on all real images first."""
        means, lines = self.scores[0].means, []
        for place in sorted(range(len(means)), key=lambda place: -means[place]):
            cells = [spread_text(*mean_and_std(scores.accuracies[place])) for scores in self.scores]
            lines.append([self.candidates[place].name, *cells])
        return lines

    def remarks(self) -> list[str]:
        """How it was measured, what seeds allow, and every note."""
        lines = [METHOD]
        if self.itself is not None:
            lines.append(
                f"one seed on all real images against the mean of the others: Spearman {self.itself[0]:+.2f}, Kendall "
                f"{self.itself[1]:+.2f} (mean over seeds): more agreement than that is chance"
            )
        lines += [
            f"Spearman of the set minus that of {agreement.name}: {agreement.less.text}"
            for agreement in self.agreements
            if agreement.less is not None
        ]
        return [*lines, *self.notes, *(f"{scores.name}: {scores.note}" for scores in self.scores if scores.note)]

    def tables(self) -> list[TextTable]:
        """Accuracies, and agreements with all remarks."""
        columns = ["candidate", *(f"{scores.name}, %" for scores in self.scores)]
        agreement = "agreement with the ranking on all real images"
        return [
            TextTable(self.title, columns, self.score_lines()),
            TextTable(agreement, self.columns, self.lines(), self.remarks()),
        ]

    def plot(self, out: Path | str, *, overwrite: bool = False) -> Path:
        """Write a PNG of every candidate's accuracy on the items against that on all real images.

        Raises:
            InputError: an existing `out`, or no .png.
        """
        from attar.evaluation.plots import Series, plot_agreement

        x, x_std = zip(*map(mean_and_std, self.scores[0].accuracies), strict=True)
        clouds = []
        for scores, agreement in zip(self.scores[1:], self.agreements, strict=True):
            y, y_std = zip(*map(mean_and_std, scores.accuracies), strict=True)
            clouds.append(Series(f"{scores.name}, Spearman {agreement.spearman.text}", x, y, y_std, x_std))
        return plot_agreement(clouds, out, title=self.title, overwrite=overwrite)


def agreements(scores: Sequence[Scores]) -> list[Agreement]:
    """The agreements of all scores but the first with the first, from the same bootstrap draws."""
    draws = Draws.of(len(scores[0].accuracies), len(scores[0].accuracies[0]))
    drawn = [draws.means(torch.tensor(items.accuracies, dtype=torch.float64)) for items in scores]
    means = [torch.tensor(items.means, dtype=torch.float64) for items in scores]
    places = range(1, len(scores))
    rho, tau = (
        {place: (measure(means[place], means[0]), over_draws(measure, drawn[place], drawn[0])) for place in places}
        for measure in (spearman, kendall)
    )
    return [
        Agreement(
            name=scores[place].name,
            spearman=Correlation.of(*rho[place]),
            kendall=Correlation.of(*tau[place]),
            choice=scores[place].best,
            lost=max(scores[0].means) - scores[0].means[scores[place].best],
            less=None if place == 1 else Correlation.of(rho[1][0] - rho[place][0], rho[1][1] - rho[place][1]),
        )
        for place in places
    ]
