"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

from __future__ import annotations

from typing import Any

from attar.base.errors import InputError
from attar.data.offers import Source
from attar.data.tables import Table, rows_of, source_of

HUB = "hf:"


def open_hub(name: str, soft: bool = False) -> Source:
    """A data set of the hub: its train part and its test part, else validation; or one part alone.

    Args:
        name: "hf:NAME", or "hf:NAME:SPLIT" for one part.
        soft: see `open_tables`.

    Raises:
        InputError: the package is missing, or the data set is not found or has no image and label column.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"{name} needs the package datasets; run: pip install 'attar[hub]'") from None
    repository, _, split = name.removeprefix(HUB).partition(":")
    try:
        data = datasets.load_dataset(repository)  # from 2.20 on, no code of a data set is run unless asked for
    except Exception as error:  # the hub client raises its own, its HTTP library's and the system's errors
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise InputError(f"{name} cannot be loaded ({reason}); check the name and the connection") from error
    parts = {str(key): part for key, part in data.items()}
    chosen = [split] if split else ["train", "test", "validation", "valid", "val"]
    if chosen[0] not in parts:
        first = next(iter(parts), "SPLIT")
        raise InputError(
            f"{name} has the parts {', '.join(sorted(parts))} but no {chosen[0]} part; name one, "
            f"{HUB}{repository}:{first}"
        )
    tables = [_table(parts[key], name, soft) for key in chosen if key in parts]
    return source_of(name, tables[:2])


def _table(part: Any, title: str, soft: bool) -> Table:
    rows = part.with_format("arrow")[:]
    schema = rows.schema.with_metadata(part.features.arrow_schema.metadata)
    facts = [str(getattr(part, "_fingerprint", title))]
    return Table([rows_of(rows.replace_schema_metadata(schema.metadata))], title, facts, None, soft)
