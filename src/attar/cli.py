"""The command line: verbs to library functions, and errors in one line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attar.errors import InputError
from attar.exit_status import ReaderGone, Stopped, exit_status
from attar.options import (
    Baselines,
    Channels,
    Classes,
    Codec,
    Data,
    DataOption,
    Device,
    Epoch,
    File,
    Flip,
    ImageSize,
    JsonOut,
    Networks,
    NoCache,
    Overwrite,
    Protocol,
    Quiet,
    Resize,
    Seeds,
    Settings,
    Test,
    assignments,
    chosen_baselines,
    listed,
    loading_arguments,
    memory_budget,
)
from attar.printing import print_pairs, say, show_table, unindented, write_and_say
from attar.process import prepare_process

if TYPE_CHECKING:
    from attar.data.image_set import Splits
    from attar.distilled import DistilledSet

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distils a labelled image dataset into one small file, and says honestly what the file is worth.",
    epilog="Long work is stopped with Ctrl-C and continues when the same command is repeated.",
)


def _verb(name: str, stopped: str = "stopped") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function the verb `name`; `stopped` is what Ctrl-C says."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except KeyboardInterrupt:
                raise Stopped(stopped) from None
            except BrokenPipeError:
                raise ReaderGone from None

        app.command(name)(run)
        return function

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        import attar

        typer.echo(f"attar {attar.__version__}")
        raise typer.Exit


@app.callback()
def attar_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distils a labelled image dataset into one small file, and says honestly what the file is worth."""


@_verb("distill", stopped="stopped; the same command continues from the last saved step")
def distill_verb(
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write, e.g. photos.attar.safetensors.")],
    recipe: Annotated[str, typer.Option(help="A method with its settings; attar recipes lists them.")] = "latent-dm",
    budget: Annotated[
        str | None, typer.Option(help="10ipc (images per class), 120lpc (items per class) or 5MB (the whole file).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Every random choice derives from it.")] = 0,
    device: Device = "auto",
    codec: Codec = None,
    storage: Annotated[str | None, typer.Option(help="How codes are stored: float32, float16 or int8.")] = None,
    label_bytes: Annotated[
        str | None, typer.Option(help="The most that region labels may take, e.g. 500kB; else as the recipe has it.")
    ] = None,
    set_: Settings = None,
    checkpoint_steps: Annotated[int, typer.Option(min=1, help="Steps between two saved states.")] = 100,
    memory: Annotated[
        str | None, typer.Option(help="The most memory to take, e.g. 8GB; by default most of what is free.")
    ] = None,
    test: Test = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Distil labelled images into one small file."""
    settings = assignments(set_ or [])
    loading = loading_arguments(test, classes, image_size, resize, channels)
    import attar

    with _progress(quiet) as progress:
        result = attar.distill(
            data,
            recipe,
            budget,
            out=out,
            seed=seed,
            device=device,
            settings=settings,
            codec=codec,
            storage=storage,
            label_bytes=label_bytes,
            checkpoint_steps=checkpoint_steps,
            memory=memory,
            overwrite=overwrite,
            progress=progress,
            **loading,
        )
    say(f"{out}: {len(result)} items of {len(result.classes)} classes in {out.stat().st_size} bytes")


@_verb("experts", stopped="stopped; the same command continues after the last whole epoch")
def experts_verb(
    data: Data,
    recipe: Annotated[str, typer.Option(help="A method that matches trajectories; attar recipes lists them all.")],
    count: Annotated[int | None, typer.Option(min=1, help="How many experts; else the recipe's.")] = None,
    device: Device = "auto",
    codec: Codec = None,
    set_: Settings = None,
    test: Test = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    quiet: Quiet = False,
) -> None:
    """Train the experts whose trajectories a recipe matches.

    They are kept in the cache, where distill finds them; it trains what is missing itself.
    """
    settings = assignments(set_ or [])
    loading = loading_arguments(test, classes, image_size, resize, channels)
    from attar.experts.command import make_experts, summary

    with _progress(quiet) as progress:
        buffer = make_experts(
            data, recipe, count=count, device=device, settings=settings, codec=codec, progress=progress, **loading
        )
    say(summary(buffer))


@_verb("observer", stopped="stopped; the same command continues after the last whole epoch")
def observer_verb(
    data: Data,
    network: Annotated[str | None, typer.Option(help="Its architecture, e.g. convnet:batch or resnet18:batch.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Instead of training: a .safetensors file, torchvision:NAME or timm:NAME.")
    ] = None,
    device: Device = "auto",
    set_: Settings = None,
    test: Test = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    quiet: Quiet = False,
) -> None:
    """Train or load, and check, the network that LIC, RDED and SRe2L ask; distill finds it in the cache."""
    settings = assignments(set_ or [])
    loading = loading_arguments(test, classes, image_size, resize, channels)
    from attar.observers.command import make_observer, summary

    with _progress(quiet) as progress:
        made = make_observer(
            data, network=network, weights=weights, device=device, settings=settings, progress=progress, **loading
        )
    say(summary(made))


@_verb("evaluate", stopped="stopped; the same command continues: networks already trained are kept in the cache")
def evaluate_verb(
    file: File,
    data: DataOption,
    protocol: Protocol = "quick",
    networks: Networks = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Only the distilled set itself.")] = False,
    json_out: JsonOut = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    flip: Flip = None,
    device: Device = "auto",
    no_cache: NoCache = False,
    test: Test = None,
    classes: Classes = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train networks on a file, test them on real images.

    Baselines of the same bytes stand beside it: random real images, a coreset, the undistilled start.
    """
    _refuse_output(json_out, overwrite)
    rows = chosen_baselines(baselines, no_baselines)
    import attar
    from attar.evaluation.evaluate import set_name

    distilled = attar.load(file)
    with _progress(quiet) as progress:
        splits = _real_images(distilled, data, test, classes, resize, progress)
        card = attar.evaluate(
            distilled,
            splits,
            protocol,
            networks=listed(networks),
            seeds=seeds,
            baselines=rows,
            flip=flip,
            device=device,
            cache=not no_cache,
            progress=progress,
            name=set_name(file),
        )
    if json_out == Path("-"):
        say(card.to_json())
        return
    show_table(card.as_markdown() if markdown else card.as_table())
    if json_out is not None:
        write_and_say(json_out, card.to_json())


@_verb("compare", stopped="stopped; the same command continues: networks already trained are kept in the cache")
def compare_verb(
    files: Annotated[list[Path], typer.Argument(help="Two or more distilled files.")],
    data: DataOption,
    protocol: Protocol = "quick",
    networks: Networks = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Write a plot (.png), a table (.md) or everything (.json).")] = None,
    flip: Flip = None,
    device: Device = "auto",
    no_cache: NoCache = False,
    test: Test = None,
    classes: Classes = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate several files alike: a table and a plot."""
    _refuse_output(out, overwrite)
    if out is not None and out.suffix not in (".png", ".md", ".json"):
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; write .png (plot), .md (table) or .json")
    import attar
    from attar.evaluation.evaluate import set_name

    sets = [attar.load(file) for file in files]
    with _progress(quiet) as progress:
        comparison = attar.compare(
            sets,
            _real_images(sets[0], data, test, classes, resize, progress),
            protocol,
            networks=listed(networks),
            seeds=seeds,
            flip=flip,
            device=device,
            cache=not no_cache,
            progress=progress,
            names=[set_name(file) for file in files],
        )
    show_table(comparison.as_table())
    if out is not None and out.suffix == ".png":
        comparison.plot(out, overwrite=overwrite)
        say(str(out))
    elif out is not None:
        write_and_say(out, comparison.to_json() if out.suffix == ".json" else comparison.as_markdown())


@_verb("continual", stopped="stopped; the same command continues: finished steps are kept in the cache")
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
        _refuse_output(path, overwrite)
    settings, size = assignments(set_ or []), memory_budget(budget, memory_bytes, out)
    loading = loading_arguments(test, classes, image_size, resize, channels)
    import attar

    with _progress(quiet) as progress:
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


@_verb("show")
def show_verb(
    file: File,
    out: Annotated[Path, typer.Option(help="The picture to write, a .png.")],
    per_class: Annotated[int | None, typer.Option(min=1, help="At most so many items of each class.")] = None,
    data: Annotated[str | None, typer.Option(help="Real data whose images are drawn beside them.")] = None,
    epoch: Epoch = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
) -> None:
    """Draw the images of a file, class by class."""
    _refuse_output(out, overwrite)
    import attar
    from attar.progress import Silent

    distilled = attar.load(file)
    real = None if data is None else _real_images(distilled, data, None, None, resize, Silent()).train
    attar.show(distilled, out, overwrite=overwrite, per_class=per_class, real=real, epoch=epoch)
    say(str(out))


@_verb("info")
def info_verb(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say what a file is.

    Classes, sizes, recipe, data, where its items came from, and scores.
    """
    import attar
    from attar.report.facts import facts

    distilled = attar.load(file)
    if as_json:
        say(json.dumps(distilled.describe(), indent=2, ensure_ascii=False))
    else:
        print_pairs(facts(distilled))


@_verb("export")
def export_verb(
    file: File,
    to: Annotated[Literal["imagefolder", "npz"], typer.Option(help="A folder per class of PNG files, or arrays.")],
    out: Annotated[Path, typer.Option(help="The folder or file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Write the images for tools without attar."""
    import attar

    attar.export(attar.load(file), to, out, overwrite=overwrite)
    say(str(out))


@_verb("recipes")
def recipes_verb(
    name: Annotated[str | None, typer.Argument(help="Show this recipe's settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the recipes, or show one in full."""
    from attar.recipes import REGISTRY, recipe

    if name is not None:
        shown = recipe(name)
        if not as_json:
            say(f"{unindented(REGISTRY[name].__doc__)}\n")
        say(shown.model_dump_json(indent=2))
        return
    known = [recipe(each) for each in REGISTRY]
    if as_json:
        say(json.dumps([json.loads(each.model_dump_json()) for each in known], indent=2))
        return
    print_pairs([(each.name, each.title) for each in known])


@_verb("cite")
def cite_verb(
    what: Annotated[str, typer.Argument(help="A distilled file, or the name of a recipe.")],
) -> None:
    """Print the BibTeX behind a file or a recipe."""
    import attar

    say(attar.cite(what) or f"% {what} rests on no publication")


@_verb("doctor")
def doctor_verb(
    no_self_check: Annotated[bool, typer.Option("--no-self-check", help="Only look; distil nothing.")] = False,
) -> None:
    """Look at this machine, and distil a little.

    Python, torch, devices, threads, memory, cache, optional packages, compiler, and a run of a few steps.
    """
    import attar

    checks = attar.doctor(self_check=not no_self_check)
    print_pairs([(f"{check.name} [{check.status}]", check.text) for check in checks])
    if any(check.status == "fault" for check in checks):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 the run failed, 2 bad input, 130 stopped by Ctrl-C.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    prepare_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(args=arguments or ["--help"], prog_name="attar", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if os.environ.get("ATTAR_DEBUG"):
            raise
        return exit_status(error)
    return status if isinstance(status, int) else 0


def _progress(quiet: bool) -> Any:
    """The bar, or silence, as a context manager."""
    from attar.progress import RichProgress, Silent

    return contextlib.nullcontext(Silent()) if quiet else RichProgress()


def _real_images(
    distilled: DistilledSet, data: str, test: str | None, classes: str | None, resize: str, progress: Any
) -> Splits:
    """The real images in the size, colours and classes of the distilled ones."""
    import attar

    channels, height, width = distilled.image_shape
    loading = loading_arguments(test, classes, f"{height}x{width}", resize, "grey" if channels == 1 else "rgb")
    loading["classes"] = loading["classes"] or list(distilled.classes)
    return attar.load_images(data, progress=progress, **loading)


def _refuse_output(path: Path | None, overwrite: bool) -> None:
    """Refuse what could not be written at the end, before any work."""
    from attar.files import refuse_existing

    if path is not None and path != Path("-"):
        refuse_existing(path, overwrite)
