"""The verb that writes a page of everything known about files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import real_images, refuse_output, verb
from attar.cli.options import Overwrite, Resize
from attar.cli.printing import say


@verb("report")
def report_verb(
    files: Annotated[list[Path], typer.Argument(help="One or more distilled files.")],
    out: Annotated[Path, typer.Option(help="The page to write, a .html.")],
    scores: Annotated[
        list[Path] | None, typer.Option(help="A scorecard that evaluate --json wrote of one of the files; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Real data whose images are shown beside them.")] = None,
    against: Annotated[
        str | None, typer.Option(help="The baseline that accuracies are compared with class by class; else random.")
    ] = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page: images, scores beside baselines, sizes, losses, provenance, citations."""
    refuse_output(out, overwrite)
    import attar
    from attar.base.progress import Silent
    from attar.report.page.writing import write_page

    real = None
    if data is not None:
        sets = [attar.load(file) for file in files]
        real = [real_images(each, data, None, None, resize, Silent()).train for each in sets]
    write_page(files, out, scores=scores or [], real=real, against=against, overwrite=overwrite)
    say(str(out))
