"""What a class-incremental experiment measured: a frozen record that prints and draws itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from attar.base.config import Config, parse_config
from attar.evaluation.card import TextTable
from attar.evaluation.protocol import Protocol
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DIFFERENCES, DISTILLED, Difference
from attar.evaluation.statistics import mean_and_std
from attar.models.networks.network import NetworkConfig

if TYPE_CHECKING:
    from rich.table import Table


class Step(Config):
    """One step: a group of classes was added to the memory, and networks were trained on all of it from scratch.

    Args:
        classes: names of those that were added.
        num_classes: seen so far.
        num_test: test images of all classes seen so far.
        fingerprint: of the distilled set that was added.
        rows: as of a scorecard, network by network; `num_bytes` is what the whole memory takes.
    """

    classes: tuple[str, ...] = Field(min_length=2)
    num_classes: int = Field(ge=2)
    num_test: int = Field(ge=1)
    fingerprint: str
    rows: tuple[Row, ...] = Field(min_length=1)


class Average(Config):
    """A row's average incremental accuracy: the mean over all steps, seed by seed.

    Args:
        name: of the row.
        network: of the row.
        accuracies: percent, one a seed.
        mean: percent.
        std: percent over seeds; None for a single seed.
    """

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
        return _text(self.mean, self.std)


class ContinualCard(Config):
    """Every step's rows under one protocol.

    Args:
        recipe: name of the method that each group was distilled with.
        budget: as asked for: of each group, or bytes of the whole memory.
        cap: the most bytes that the memory of all classes may take; None where the budget is per class.
        order_seed: of the order of the classes; None for the data's own.
        seed: of distilling.
        protocol: every setting, as used.
        data: name of the data set.
        test_fingerprint, train_fingerprint: of its two parts, all classes.
        image_shape: (C, H, W).
        seeds: of the networks and of the random images; the same for all rows and steps.
        device: on which networks were trained.
        versions: attar, torch.
        steps: in their order.
        differences: the distilled row minus each other one at the last step.
        averages: of each row over all steps.
        notes: what a reader should know before believing a number.
    """

    schema_version: Literal[1] = 1
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
        if any(each != names[0] for each in names):
            raise ValueError("the steps have different rows")
        seen = 0
        for step in self.steps:
            seen += len(step.classes)
            if step.num_classes != seen:
                raise ValueError(f"{step.num_classes} classes are said to be seen and {seen} are listed")
        if any(row.seeds not in ((), self.seeds) for step in self.steps for row in step.rows):
            raise ValueError("a row has other seeds than the card")
        return self

    @classmethod
    def of(cls, steps: Sequence[Step], **about: object) -> ContinualCard:
        """With differences and averages from the steps."""
        last = [row for row in steps[-1].rows if row.absent is None]
        main = {row.network: row for row in last if row.name == DISTILLED}
        differences = tuple(Difference.between(main[row.network], row) for row in last if row.name != DISTILLED)
        averages = tuple(Average.of([step.rows[place] for step in steps]) for place in _present(steps))
        return cls.model_validate({**about, "steps": tuple(steps), "differences": differences, "averages": averages})

    def row(self, name: str = DISTILLED, step: int = -1, network: NetworkConfig | None = None) -> Row:
        """The row of that name at a step, on that network, or on the first network. Raises KeyError."""
        for row in self.steps[step].rows:
            if row.name == name and network in (None, row.network):
                return row
        raise KeyError(name)

    def average(self, name: str = DISTILLED, network: NetworkConfig | None = None) -> Average:
        """The row's average over all steps. Raises KeyError."""
        for average in self.averages:
            if average.name == name and network in (None, average.network):
                return average
        raise KeyError(name)

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> ContinualCard:
        """What `to_json` wrote. Raises InputError for anything else."""
        return parse_config(cls, text, "continual card")

    @property
    def title(self) -> str:
        """Recipe, data, steps, budget, protocol, seeds and device in one line."""
        budget = self.budget if self.cap is None else f"{self.cap:,} bytes in all"
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "1 seed"
        return (
            f"{self.recipe} as replay on {self.data}: {len(self.steps)} steps, {budget}, "
            f"protocol {self.protocol.label}, {seeds}, {self.device}"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        seen = [f"{step.num_classes} classes, %" for step in self.steps]
        return (
            "trained on",
            "network",
            "memory bytes",
            *seen,
            "average %",
            "distilled minus row, last step",
            "minutes",
        )

    def lines(self) -> list[list[str]]:
        """The table's cells, a row for each kind of memory and each network."""
        return [self._cells([step.rows[place] for step in self.steps]) for place in range(len(self.steps[0].rows))]

    def remarks(self) -> list[str]:
        """Every note of the card and of its rows at the last step, each once."""
        told = [f"{row.name}: {row.absent or row.note}" for row in self.steps[-1].rows if row.absent or row.note]
        return list(dict.fromkeys([*self.notes, *[DIFFERENCES] * bool(self.differences), *told]))

    def as_table(self) -> Table:
        """The rows as a table for rich, the remarks as its caption."""
        return TextTable(self.title, self.columns, self.lines(), self.remarks()).rich()

    def as_markdown(self) -> str:
        """The rows as a markdown table, title above and remarks below."""
        return TextTable(self.title, self.columns, self.lines(), self.remarks()).markdown()

    def plot(self, out: Path | str, *, overwrite: bool = False) -> Path:
        """Write a PNG of accuracy against classes seen, on the first network. Raises InputError where `out` exists."""
        from attar.evaluation.plots import Series, plot_classes

        network = self.steps[0].rows[0].network
        curves = [
            Series(row.name, seen, tuple(means), tuple(stds))
            for row, seen, means, stds in self._curves()
            if row.network == network
        ]
        return plot_classes(curves, out, title=f"{self.title}, {network.name}", overwrite=overwrite)

    def _curves(self) -> Iterator[tuple[Row, tuple[int, ...], list[float], list[float | None]]]:
        seen = tuple(step.num_classes for step in self.steps)
        for place in _present(self.steps):
            rows = [step.rows[place] for step in self.steps]
            yield rows[0], seen, [row.mean for row in rows if row.mean is not None], [row.std for row in rows]

    def _cells(self, rows: Sequence[Row]) -> list[str]:
        last = rows[-1]
        key = last.name, last.network
        average = [each.text for each in self.averages if (each.name, each.network) == key]
        difference = [each.text for each in self.differences if (each.baseline, each.network) == key]
        return [
            last.name,
            last.network.name,
            "" if last.num_bytes is None else f"{last.num_bytes:,}",
            *(_text(row.mean, row.std) for row in rows),
            *(average or [""]),
            *(difference or [""]),
            f"{sum(row.minutes for row in rows):.2g}",
        ]


def _text(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "absent"
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _present(steps: Sequence[Step]) -> list[int]:
    """Places of the rows that were measured at every step."""
    return [place for place in range(len(steps[0].rows)) if all(step.rows[place].absent is None for step in steps)]
