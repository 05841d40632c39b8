"""What a class-incremental experiment measured: a frozen record that prints and draws itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.card import Card, seeds_text
from attar.evaluation.evaluate import differences_of
from attar.evaluation.protocol import Protocol
from attar.evaluation.rows import DISTILLED, Row, find_row, row_remarks
from attar.evaluation.scorecard import DIFFERENCES, Difference
from attar.evaluation.statistics import mean_and_std, spread_text
from attar.models.networks.network import NetworkConfig


class Step(Config):
    """One step: a group of classes was added to the memory, and networks were trained on all of it from scratch.

    Args:
        classes, fingerprint: names of the classes, and of the distilled set, that were added.
        num_classes, num_test: classes so far, and test images of them.
        rows: as of a scorecard, network by network; `num_bytes` is what the whole memory takes.
    """

    classes: tuple[str, ...] = Field(min_length=2)
    num_classes: int = Field(ge=2)
    num_test: int = Field(ge=1)
    fingerprint: str
    rows: tuple[Row, ...] = Field(min_length=1)


class Average(Config):
    """A row's average incremental accuracy: the mean over all steps, seed by seed, in percent."""

    name: str
    network: NetworkConfig
    accuracies: tuple[float, ...] = Field(min_length=1)
    mean: float
    std: float | None

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Average:
        """Of the same row at every step."""
        columns = zip(*(row.accuracies for row in rows), strict=True)
        accuracies = tuple(mean_and_std(column)[0] for column in columns)
        mean, std = mean_and_std(accuracies)
        return cls(name=rows[0].name, network=rows[0].network, accuracies=accuracies, mean=mean, std=std)

    @property
    def text(self) -> str:
        """E.g. "63.2 ± 0.8"."""
        return spread_text(self.mean, self.std)


class ContinualCard(Card):
    """Every step's rows under one protocol.

    Args:
        recipe, seed: of distilling each group.
        budget: as asked for: of each group, or bytes of the whole memory.
        cap: the most bytes that the memory of all classes may take; None where the budget is per class.
        order_seed: of the order of the classes; None for the data's own.
        protocol: every setting, as used.
        data, test_fingerprint, train_fingerprint: name of the data and its two parts, all classes.
        seeds: of the networks and of the random images; the same for all rows and steps.
        differences: the distilled row minus each other one at the last step.
        averages: of each row over all steps.
    """

    noun = "continual card"

    recipe: str
    budget: str
    cap: int | None = None
    order_seed: int | None = None
    seed: int = 0
    protocol: Protocol
    data: str
    test_fingerprint: str
    train_fingerprint: str
    image_shape: tuple[int, int, int]
    seeds: tuple[int, ...] = Field(min_length=1)
    device: str
    versions: dict[str, str]
    steps: tuple[Step, ...] = Field(min_length=1)
    differences: tuple[Difference, ...] = ()
    averages: tuple[Average, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> ContinualCard:
        names = [[(row.name, row.network) for row in step.rows] for step in self.steps]
        if any(others != names[0] for others in names):
            raise ValueError("the steps have different rows")
        num_listed = 0
        for step in self.steps:
            num_listed += len(step.classes)
            if step.num_classes != num_listed:
                raise ValueError(f"{step.num_classes} classes are said to be seen and {num_listed} are listed")
        if any(row.seeds not in ((), self.seeds) for step in self.steps for row in step.rows):
            raise ValueError("a row has other seeds than the card")
        return self

    @classmethod
    def of(cls, steps: Sequence[Step], **about: object) -> ContinualCard:
        """With differences and averages from the steps."""
        differences = tuple(differences_of(steps[-1].rows))
        averages = tuple(Average.of(rows) for rows in _measured_rows(steps))
        return cls.model_validate({**about, "steps": tuple(steps), "differences": differences, "averages": averages})

    def row(self, name: str = DISTILLED, step: int = -1, network: NetworkConfig | None = None) -> Row:
        """The row of that name at a step, on that network, or on the first network. Raises KeyError."""
        return find_row(self.steps[step].rows, name, network)

    def average(self, name: str = DISTILLED, network: NetworkConfig | None = None) -> Average:
        """The row's average over all steps. Raises KeyError."""
        for average in self.averages:
            if average.name == name and network in (None, average.network):
                return average
        raise KeyError(name)

    @property
    def title(self) -> str:
        budget = self.budget if self.cap is None else f"{self.cap:,} bytes in all"
        return (
            f"{self.recipe} as replay on {self.data}: {len(self.steps)} steps, {budget}, "
            f"protocol {self.protocol.label}, {seeds_text(self.seeds)}, {self.device}"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        accuracies = [f"{step.num_classes} classes, %" for step in self.steps]
        last = ("average %", "distilled minus row, last step", "minutes")
        return ("trained on", "network", "memory bytes", *accuracies, *last)

    def lines(self) -> list[list[str]]:
        """A row for each kind of memory and each network."""
        averages = {(average.name, average.network): average.text for average in self.averages}
        differences = {(difference.baseline, difference.network): difference.text for difference in self.differences}
        lines = []
        for rows in zip(*(step.rows for step in self.steps), strict=True):
            last = rows[-1]
            key = last.name, last.network
            lines.append(
                [
                    last.name,
                    last.network.name,
                    "" if last.num_bytes is None else f"{last.num_bytes:,}",
                    *("absent" if row.mean is None else spread_text(row.mean, row.std) for row in rows),
                    averages.get(key, ""),
                    differences.get(key, ""),
                    f"{sum(row.minutes for row in rows):.2g}",
                ]
            )
        return lines

    def remarks(self) -> list[str]:
        """Every note of the card and of its rows at the last step, each once."""
        notes = [*self.notes, *[DIFFERENCES] * bool(self.differences), *row_remarks(self.steps[-1].rows)]
        return list(dict.fromkeys(notes))

    def plot(self, out: Path | str, *, overwrite: bool = False) -> Path:
        """Write a PNG of accuracy against classes seen, on the first network. Raises InputError where `out` exists."""
        from attar.evaluation.plots import Series, plot_classes

        num_classes = tuple(step.num_classes for step in self.steps)
        network = self.steps[0].rows[0].network
        curves = []
        for rows in _measured_rows(self.steps):
            if rows[0].network == network:
                means = tuple(row.mean for row in rows if row.mean is not None)
                curves.append(Series(rows[0].name, num_classes, means, tuple(row.std for row in rows)))
        return plot_classes(curves, out, title=f"{self.title}, {network.name}", overwrite=overwrite)


def _measured_rows(steps: Sequence[Step]) -> list[tuple[Row, ...]]:
    """Every row at all steps, where it was measured at each."""
    every_row = zip(*(step.rows for step in steps), strict=True)
    return [rows for rows in every_row if all(row.absent is None for row in rows)]
