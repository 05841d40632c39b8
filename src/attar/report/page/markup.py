"""HTML of the page: jinja's template escapes whatever is text, and what HTML cannot hold is replaced before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""What HTML cannot hold, or turns the numbers after it round."""


@dataclass(frozen=True)
class Table:
    """A table that scrolls within itself; the first cell of a row heads it.

    Args:
        caption: what it is, above it.
        rows: cells, text or `Markup`.
        heads: of the columns; none where the rows' heads say enough.
        numbers: heads of the columns that are set flush right.
        strong: rows that are set bold.
        style: classes of the box around it.
    """

    caption: str
    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = ()
    numbers: frozenset[str] = frozenset()
    strong: frozenset[int] = frozenset()
    style: str = "scroll"


def environment() -> Environment:
    """Return jinja's environment of the templates in this folder, which escape text but not `Markup`."""
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def clean(text: str) -> str:
    """Replace the characters of `UNFIT`; what is HTML already stays as it is."""
    return text if isinstance(text, Markup) else UNFIT.sub("\ufffd", text)


def name(text: str) -> Markup:
    """Wrap a name from a file, so that the direction of its letters changes nothing around it."""
    return Markup("<bdi>{}</bdi>").format(clean(text))


def joined(pieces: Iterable[str]) -> Markup:
    """Join pieces, each escaped where it is not HTML."""
    return Markup().join(clean(piece) for piece in pieces)
