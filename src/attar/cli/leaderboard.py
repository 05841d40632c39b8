"""The verb that makes a page of recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attar.cli.app import refuse_output, verb
from attar.cli.options import Overwrite
from attar.cli.printing import say, say_lines


@verb("leaderboard")
def leaderboard_verb(
    folder: Annotated[Path, typer.Argument(help="What evaluate --record or compare --record has filled.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write, a .md; its plots lie in a folder beside.")
    ] = None,
    sort: Annotated[
        Literal["bytes", "paper-bytes", "accuracy", "name", "time"], typer.Option(help="Order of a table's rows.")
    ] = "bytes",
    overwrite: Overwrite = False,
) -> None:
    """Make a page of recorded runs: a table and a plot for each data set and protocol."""
    refuse_output(out, overwrite)
    from attar.studies.leaderboard.page import page, write_page
    from attar.studies.leaderboard.record import read_records

    records = read_records(folder)
    if out is None:
        say(page(records, folder.name, sort))
        return
    say_lines(map(str, write_page(records, out, overwrite, sort)))
