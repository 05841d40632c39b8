"""Verbs that train networks on sets, and test them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.base.errors import InputError
from attar.cli.app import real_images, refuse_output, shown_progress, verb
from attar.cli.options import (
    Address,
    Baselines,
    Channels,
    Classes,
    Curves,
    Data,
    DataOption,
    Device,
    EngineName,
    File,
    Flip,
    Gpus,
    ImageSize,
    JsonOut,
    Networks,
    NoBaselines,
    NoCache,
    Overwrite,
    Protocol,
    Quiet,
    Resize,
    Seeds,
    Settings,
    Test,
    Workers,
    assignments,
    chosen_baselines,
    chosen_engine,
    listed,
    loading_arguments,
    memory_budget,
)
from attar.cli.printing import say, say_lines, show_table, write_and_say
from attar.cli.recording import CommitOption, Recorder, RecordOption


@verb("evaluate", stopped="stopped; the same command continues: networks already trained are kept in the cache")
def evaluate_verb(
    context: typer.Context,
    file: File,
    data: DataOption,
    protocol: Protocol = "quick",
    networks: Networks = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    no_baselines: NoBaselines = False,
    json_out: JsonOut = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    record: RecordOption = None,
    commit: CommitOption = None,
    flip: Flip = None,
    curves: Curves = False,
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
    """Train networks on a file, test them on real images.

    Baselines of the same bytes stand beside it: random real images, a coreset, the undistilled start.
    """
    refuse_output(json_out, overwrite)
    if curves and json_out is None:
        raise InputError("--curves has no effect without --json: the table does not show them; give --json FILE")
    recorder = Recorder.of(context, record, commit, overwrite)
    rows = chosen_baselines(baselines, no_baselines)
    place = chosen_engine(engine, address, workers, gpus)
    import attar
    from attar.base.files import set_name

    distilled = attar.load(file)
    with place, shown_progress(quiet) as progress:
        splits = real_images(distilled, data, test, classes, resize, progress)
        card = attar.evaluate(
            distilled, splits, protocol, networks=listed(networks), seeds=seeds, baselines=rows, flip=flip,
            device=device, cache=not no_cache, progress=progress, name=set_name(file), engine=place,
            curves=curves,
        )  # fmt: skip
    # What was measured is shown before a record may be refused, so that it is not lost with it.
    if json_out == Path("-"):
        say(card.to_json())
        recorder.keep([card], [(card.name, distilled)])
        return
    show_table(card.as_markdown() if markdown else card.as_table())
    if json_out is not None:
        write_and_say(json_out, card.to_json())
    say_lines(recorder.keep([card], [(card.name, distilled)]))


@verb("compare", stopped="stopped; the same command continues: networks already trained are kept in the cache")
def compare_verb(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Two or more distilled files.")],
    data: DataOption,
    protocol: Protocol = "quick",
    networks: Networks = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    no_baselines: NoBaselines = False,
    out: Annotated[Path | None, typer.Option(help="Write a plot (.png), a table (.md) or everything (.json).")] = None,
    record: RecordOption = None,
    commit: CommitOption = None,
    flip: Flip = None,
    curves: Curves = False,
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
    """Evaluate several files alike: a table, and a plot of accuracy against bytes and against minutes."""
    refuse_output(out, overwrite)
    if out is not None and out.suffix not in (".png", ".md", ".json"):
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; write .png (plot), .md (table) or .json")
    if curves and (out is None or out.suffix != ".json"):
        raise InputError("--curves has no effect without --out FILE.json: tables and plots do not show them")
    recorder = Recorder.of(context, record, commit, overwrite)
    rows = chosen_baselines(baselines, no_baselines)
    place = chosen_engine(engine, address, workers, gpus)
    import attar
    from attar.base.files import set_name

    sets, names = [attar.load(file) for file in files], [set_name(file) for file in files]
    recorder.check(names)
    with place, shown_progress(quiet) as progress:
        comparison = attar.compare(
            sets,
            real_images(sets[0], data, test, classes, resize, progress),
            protocol,
            networks=listed(networks),
            seeds=seeds,
            baselines=rows,
            flip=flip,
            device=device,
            cache=not no_cache,
            progress=progress,
            names=names,
            engine=place,
            curves=curves,
        )
    show_table(comparison.as_table())
    if out is not None and out.suffix == ".png":
        comparison.plot(out, overwrite=overwrite)
        say(str(out))
    elif out is not None:
        write_and_say(out, comparison.to_json() if out.suffix == ".json" else comparison.as_markdown())
    say_lines(recorder.keep(comparison.cards, list(zip(names, sets, strict=True))))


@verb("continual", stopped="stopped; the same command continues: finished steps are kept in the cache")
def continual_verb(
    data: Data,
    recipe: Annotated[str, typer.Option(help="What each step's images are distilled with.")] = "lic",
    steps: Annotated[int, typer.Option(min=1, help="Groups that the classes are learned in, one after another.")] = 5,
    budget: Annotated[str | None, typer.Option(help="Of each class: 10ipc (the default) or 120lpc.")] = None,
    memory_bytes: Annotated[str | None, typer.Option(help="Instead: the most for all classes, e.g. 500kB.")] = None,
    protocol: Protocol = "quick",
    networks: Networks = None,
    seeds: Seeds = None,
    order_seed: Annotated[int | None, typer.Option(help="Shuffle the classes by this seed.")] = None,
    json_out: JsonOut = None,
    out: Annotated[Path | None, typer.Option(help="Write a plot, a .png: accuracy over classes seen.")] = None,
    set_: Settings = None,
    device: Device = "auto",
    no_cache: NoCache = False,
    test: Test = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Learn classes group by group from a distilled memory, beside random images of the same bytes."""
    for path in (json_out, out):
        refuse_output(path, overwrite)
    settings, size = assignments(set_ or []), memory_budget(budget, memory_bytes, out)
    loading = loading_arguments(test, classes, image_size, resize, channels)
    import attar

    with shown_progress(quiet) as progress:
        card = attar.continual(
            data, recipe, steps=steps, budget=size, protocol=protocol, networks=listed(networks), seeds=seeds,
            order_seed=order_seed, device=device, settings=settings, cache=not no_cache, progress=progress, **loading,
        )  # fmt: skip
    plotted = None if out is None else card.plot(out, overwrite=overwrite)
    if json_out == Path("-"):
        say(card.to_json())
        return
    show_table(card.as_table())
    if plotted is not None:
        say(str(plotted))
    if json_out is not None:
        write_and_say(json_out, card.to_json())
