"""Verbs of what distilled sets are used for: learning class by class, ranking networks, audits, the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import attar
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.cli import options
from attar.cli.app import verb
from attar.cli.evaluating import STOPPED
from attar.cli.terminal import say, say_lines, show_table, write_card


@verb("continual", stopped="stopped; the same command continues: finished steps are kept in the cache")
def continual_verb(
    data: options.Data,
    *,
    recipe: Annotated[str, "What each step's images are distilled with."] = "lic",
    steps: Annotated[int, typer.Option(min=1, help="Groups that the classes are learned in, one after another.")] = 5,
    budget: Annotated[str | None, "Of each class: 10ipc (the default) or 120lpc."] = None,
    memory_bytes: Annotated[str | None, "Instead: the most for all classes, e.g. 500kB."] = None,
    protocol: options.Protocol = "quick",
    networks: options.Networks = None,
    seeds: options.Seeds = None,
    order_seed: Annotated[int | None, "Shuffle the classes by this seed."] = None,
    json_out: options.JsonOut = None,
    out: Annotated[Path | None, "Write a plot, a .png: accuracy over classes seen."] = None,
    settings: options.Settings = None,
    device: options.Device = "auto",
    no_cache: options.NoCache = False,
    loading: options.Loading,
    output: options.Output,
) -> None:
    """Learn classes group by group from a distilled memory, beside random images of the same bytes."""
    options.refuse_outputs(output.overwrite, json_out, out)
    options.require_suffix("--out", out, (".png",), "a .png, and --json for everything")
    arguments = {"settings": options.assignments(settings), **loading.arguments()}
    size = memory_budget(budget, memory_bytes)
    with options.progress_bar(output.quiet) as progress:
        card = attar.continual(
            data, recipe, steps=steps, budget=size, protocol=protocol, networks=options.names(networks), seeds=seeds,
            order_seed=order_seed, device=device, cache=not no_cache, progress=progress, **arguments,
        )  # fmt: skip
    if out is not None:
        card.plot(out, overwrite=output.overwrite)
    if json_out == Path("-"):
        say(card.to_json())
        return
    show_table(card.as_table())
    if out is not None:
        say(str(out))
    write_card(json_out, card)


@verb("rank", STOPPED)
def rank_verb(
    file: options.File,
    *,
    data: options.DataOption,
    networks: options.Networks = None,
    settings: Annotated[
        str | None, 'Of the training, each a candidate: a JSON file, or [{"learning_rate": 0.1}, ...].'
    ] = None,
    protocol: options.Protocol = "quick",
    reference: Annotated[str | None, "Protocol on all real images, e.g. one of more steps; else the same."] = None,
    seeds: options.Seeds = None,
    out: Annotated[Path | None, "Write everything (.json), or the tables (.md)."] = None,
    plot: Annotated[Path | None, "Draw accuracies on few items over those on all, a .png."] = None,
    flip: options.Flip = None,
    session: options.Session,
) -> None:
    """Say whether networks and settings rank on a file as they do on all data.

    Beside it: how random real images of the same bytes rank them.
    """
    options.refuse_outputs(session.output.overwrite, out, plot)
    options.require_suffix("--out", out, (".json", ".md"), ".json (everything) or .md (tables)")
    options.require_suffix("--plot", plot, (".png",), "a .png")
    changes = None if settings is None else training_settings(settings)
    engine = session.jobs.chosen()
    distilled = attar.load(file)
    with session.opened(distilled, data, engine) as (splits, shared):
        card = attar.rank(
            distilled, splits, protocol, networks=options.names(networks), settings=changes,
            reference=reference, seeds=seeds, flip=flip, name=set_name(file), **shared,
        )  # fmt: skip
    if plot is not None:
        card.plot(plot, overwrite=session.output.overwrite)
    for table in card.as_tables():
        show_table(table)
    if plot is not None:
        say(str(plot))
    write_card(out, card)


@verb("leaderboard")
def leaderboard_verb(
    folder: Annotated[Path, "What evaluate --record or compare --record has filled."],
    *,
    out: Annotated[Path | None, "The page to write, a .md; its plots lie in a folder beside."] = None,
    sort: Annotated[Literal["bytes", "paper-bytes", "accuracy", "name", "time"], "Order of a table's rows."] = "bytes",
    overwrite: options.Overwrite = False,
) -> None:
    """Make a page of recorded runs: a table and a plot for each data set and protocol."""
    options.refuse_outputs(overwrite, out)
    from attar.studies.leaderboard.page import page, write_page
    from attar.studies.leaderboard.record import read_records

    records = read_records(folder)
    if out is None:
        say(page(records, folder.name, sort))
    else:
        say_lines(map(str, write_page(records, out, overwrite, sort)))


@verb("audit", stopped="stopped; the same command continues: shadows already made are kept in the cache")
def audit_verb(
    file: options.File,
    *,
    data: options.DataOption,
    out: Annotated[Path | None, "Write everything (.json), or the table (.md)."] = None,
    picture: Annotated[Path | None, "Draw items beside their nearest real images, a .png."] = None,
    write: Annotated[Path | None, "Write a copy of FILE whose statement on privacy is what was found."] = None,
    shadows: Annotated[
        int, typer.Option(min=0, help="Membership inference with so many sets of random halves, 16 or more; else none.")
    ] = 0,
    features: Annotated[
        Literal["random", "set"], "Of a network with random weights, or trained on the set."
    ] = "random",
    network: Annotated[str, "Behind the features and the attack, e.g. convnet:w64."] = "convnet",
    protocol: options.Protocol = "quick",
    seed: Annotated[int, "Of all that is drawn."] = 0,
    session: options.Session,
) -> None:
    """Look for copies of training images, and for what else a file gives away of them.

    No audit shows that a file is safe, and none is differential privacy.
    """
    outputs = [path.resolve() for path in (out, picture, write) if path is not None]
    if len(set(outputs)) < len(outputs):
        raise InputError("--out, --picture and --write name one file twice; give each a name of its own")
    options.refuse_outputs(session.output.overwrite, out, picture, write)
    options.require_suffix("--out", out, (".json", ".md"), ".json (everything) or .md (table)")
    engine = session.jobs.chosen(needs=None if shadows else "--shadows")
    distilled = attar.load(file)
    with session.opened(distilled, data, engine) as (splits, shared):
        card = attar.audit(
            distilled, splits, features=features, network=network, protocol=protocol, shadows=shadows, picture=picture,
            seed=seed, overwrite=session.output.overwrite, name=set_name(file), **shared,
        )  # fmt: skip
    show_table(card.as_table())
    if picture is not None:
        say(str(picture))
    if write is not None:
        distilled.replace(privacy=card.statement).save(write, overwrite=session.output.overwrite)
        say(str(write))
    write_card(out, card)


def memory_budget(budget: str | None, memory_bytes: str | None) -> str:
    """Return the budget of a replay memory, for each class or for all. Raises InputError."""
    from attar.runs.budget import Budget, num_bytes

    if memory_bytes is None:
        size = budget or "10ipc"
        if Budget.parse(size).unit == "bytes":
            raise InputError(
                f"--budget {size} is of each class here; give e.g. 10ipc, or --memory-bytes {size} for all"
            )
        return size
    if budget is not None:
        raise InputError("--budget and --memory-bytes are both given; give one of them")
    num_bytes(memory_bytes, "memory bytes")
    return memory_bytes


def training_settings(text: str) -> list[Any]:
    """Read a list from JSON text, or from a file. Raises InputError."""
    try:
        json_text = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8")
        settings = json.loads(json_text)
    except (OSError, ValueError):
        raise InputError(
            f'--settings {text!r:.80} is no JSON list, nor a file of one; give e.g. [{{"learning_rate": 0.1}}]'
        ) from None
    if not isinstance(settings, list):
        raise InputError(f"--settings holds {type(settings).__name__} and a list is needed, of one object a candidate")
    return settings
