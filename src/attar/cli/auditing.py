"""The verb that looks for what a file gives away of its training images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    Gpus,
    NoCache,
    Overwrite,
    Protocol,
    Quiet,
    Resize,
    Test,
    Workers,
    chosen_engine,
)
from attar.cli.printing import say, show_table, write_and_say


@verb("audit", stopped="stopped; the same command continues: shadows already made are kept in the cache")
def audit_verb(
    file: File,
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Write everything (.json), or the table (.md).")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw items beside their nearest real images, a .png.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a copy of FILE whose statement on privacy is what was found.")
    ] = None,
    shadows: Annotated[
        int, typer.Option(min=0, help="Membership inference with so many sets of random halves, 16 or more; else none.")
    ] = 0,
    features: Annotated[
        Literal["random", "set"], typer.Option(help="Of a network with random weights, or trained on the set.")
    ] = "random",
    network: Annotated[str, typer.Option(help="Behind the features and the attack, e.g. convnet:w64.")] = "convnet",
    protocol: Protocol = "quick",
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
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
    """Look for copies of training images, and for what else a file gives away of them.

    No audit shows that a file is safe, and none is differential privacy.
    """
    outputs = [path.resolve() for path in (out, picture, write) if path is not None]
    if len(set(outputs)) < len(outputs):
        raise InputError("--out, --picture and --write name one file twice; give each a name of its own")
    for path in (out, picture, write):
        refuse_output(path, overwrite)
    if out is not None and out.suffix not in (".json", ".md"):
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; write .json (everything) or .md (table)")
    place = chosen_engine(engine, address, workers, gpus, None if shadows else "--shadows")
    import attar
    from attar.base.files import set_name

    distilled = attar.load(file)
    with place, shown_progress(quiet) as progress:
        card = attar.audit(
            distilled,
            real_images(distilled, data, test, classes, resize, progress),
            features=features,
            network=network,
            protocol=protocol,
            shadows=shadows,
            picture=picture,
            seed=seed,
            device=device,
            cache=not no_cache,
            overwrite=overwrite,
            progress=progress,
            name=set_name(file),
            engine=place,
        )
    show_table(card.as_table())
    if picture is not None:
        say(str(picture))
    if write is not None:
        distilled.replace(privacy=card.statement).save(write, overwrite=overwrite)
        say(str(write))
    if out is not None:
        write_and_say(out, card.to_json() if out.suffix == ".json" else card.as_markdown())
