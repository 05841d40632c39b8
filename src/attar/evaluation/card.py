"""The base of every record of measurements: frozen, readable again, printed as tables with remarks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeVar

from attar.base.config import Config, parse_config
from attar.evaluation.rows import DISTILLED

if TYPE_CHECKING:
    from rich.table import Table

CardType = TypeVar("CardType", bound="Card")

SIZES = ("items", "paper bytes", "stored bytes", "bits per class", "external bytes")
NUMBERS = frozenset({*SIZES, "accuracy %", "images seen", "minutes", "% of full", "LRS", "ARS"})
"""Columns whose cells are set to the right."""


class TextTable(NamedTuple):
    """A table of text cells with what is written above and below it."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()

    def rich(self) -> Table:
        """The table for a terminal, the remarks as its caption. Imports rich."""
        from rich.table import Table
        from rich.text import Text

        caption = Text("\n".join(self.remarks), justify="left")
        table = Table(title=Text(self.title), caption=caption, title_justify="left", caption_justify="left")
        for column in self.columns:
            table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
        for cells in self.lines:
            table.add_row(*(Text(cell) for cell in cells), style="bold" if cells[0].startswith(DISTILLED) else None)
        return table

    def markdown(self) -> str:
        """The table in GitHub-flavoured markdown, the title above and the remarks as a list below."""
        rule = ["---:" if column in NUMBERS else "---" for column in self.columns]
        rows = [f"| {' | '.join(_escaped(cell) for cell in cells)} |" for cells in (self.columns, rule, *self.lines)]
        remarks = [f"- {' '.join(_escaped(remark).split())}" for remark in self.remarks]
        return "\n".join([f"**{_escaped(self.title)}**", "", *rows, "", *remarks, ""])


class Card(Config):
    """A record of one kind of measurement. A subclass gives `noun`, `title`, `columns`, `lines` and `remarks`.

    A card of several tables replaces `tables`.
    """

    noun: ClassVar[str]
    """The name of such a card in messages."""

    schema_version: Literal[1] = 1

    @property
    @abstractmethod
    def title(self) -> str:
        """What was measured, on what and how, in one line."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The headings of the table."""

    @abstractmethod
    def lines(self) -> list[list[str]]:
        """The cells of the table, in the order of `columns`."""

    @abstractmethod
    def remarks(self) -> list[str]:
        """What a reader should know before believing a number."""

    def tables(self) -> list[TextTable]:
        """The tables that the card is printed as."""
        return [TextTable(self.title, self.columns, self.lines(), self.remarks())]

    def as_table(self) -> Table:
        """The first table for rich."""
        return self.tables()[0].rich()

    def as_tables(self) -> list[Table]:
        """Every table for rich."""
        return [table.rich() for table in self.tables()]

    def as_markdown(self) -> str:
        """Every table as markdown."""
        return "\n".join(table.markdown() for table in self.tables())

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls: type[CardType], text: str) -> CardType:
        """The card that `to_json` wrote. Raises InputError for anything else."""
        return parse_config(cls, text, cls.noun)


def seeds_text(seeds: Sequence[int]) -> str:
    """How many seeds there are: "3 seeds", "1 seed"."""
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
