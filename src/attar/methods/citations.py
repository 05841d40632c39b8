"""BibTeX of the works that recipes rest on."""

from __future__ import annotations

from pathlib import Path


def _read_entries() -> dict[str, str]:
    text = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.split("\n\n% ")[1:])
    return {name: entry.strip() for name, _, entry in sections}


#: Names that recipes cite works by, and the works' BibTeX.
ENTRIES: dict[str, str] = _read_entries()
