"""The verb that ranks networks and settings on a file and on all data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attar.base.errors import InputError
from attar.cli.app import real_images, refuse_output, shown_progress, verb
from attar.cli.options import (
    Address,
    Classes,
    DataOption,
    Device,
    EngineName,
    File,
    Flip,
    Gpus,
    Networks,
    NoCache,
    Overwrite,
    Protocol,
    Quiet,
    Resize,
    Seeds,
    Test,
    Workers,
    chosen_engine,
    listed,
)
from attar.cli.printing import say, show_table, write_and_say


@verb("rank", stopped="stopped; the same command continues: networks already trained are kept in the cache")
def rank_verb(
    file: File,
    data: DataOption,
    networks: Networks = None,
    settings: Annotated[
        str | None,
        typer.Option(help='Of the training, each a candidate: a JSON file, or [{"learning_rate": 0.1}, ...].'),
    ] = None,
    protocol: Protocol = "quick",
    reference: Annotated[
        str | None, typer.Option(help="Protocol on all real images, e.g. one of more steps; else the same.")
    ] = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Write everything (.json), or the tables (.md).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracies on few items over those on all, a .png.")] = None,
    flip: Flip = None,
    device: Device = "auto",
    no_cache: NoCache = False,
    test: Test = None,
    classes: Classes = None,
    resize: Resize = "refuse",
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Say whether networks and settings rank on a file as they do on all data.

    Beside it: how random real images of the same bytes rank them.
    """
    for path in (out, plot):
        refuse_output(path, overwrite)
    if out is not None and out.suffix not in (".json", ".md"):
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; write .json (everything) or .md (tables)")
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"--plot {plot} ends in {plot.suffix or 'nothing'}; write a .png")
    changes = None if settings is None else training_settings(settings)
    place = chosen_engine(engine, address, workers, gpus)
    import attar
    from attar.base.files import set_name

    distilled = attar.load(file)
    with place, shown_progress(quiet) as progress:
        card = attar.rank(
            distilled,
            real_images(distilled, data, test, classes, resize, progress),
            protocol,
            networks=listed(networks),
            settings=changes,
            reference=reference,
            seeds=seeds,
            flip=flip,
            device=device,
            cache=not no_cache,
            progress=progress,
            name=set_name(file),
            engine=place,
        )
    if plot is not None:
        card.plot(plot, overwrite=overwrite)
    for table in card.as_tables():
        show_table(table)
    if plot is not None:
        say(str(plot))
    if out is not None:
        write_and_say(out, card.to_json() if out.suffix == ".json" else card.as_markdown())


def training_settings(text: str) -> list[Any]:
    """The list in JSON text, or in a file of it. Raises InputError."""
    try:
        listed_text = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8")
        found = json.loads(listed_text)
    except (OSError, ValueError):
        raise InputError(
            f'--settings {text!r:.80} is no JSON list, nor a file of one; give e.g. [{{"learning_rate": 0.1}}]'
        ) from None
    if not isinstance(found, list):
        raise InputError(f"--settings holds {type(found).__name__} and a list is needed, of one object a candidate")
    return found
