"""Verbs that look: at files, recipes, and the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from attar.cli.app import real_images, refuse_output, verb
from attar.cli.options import (
    Epoch,
    File,
    Overwrite,
    Resize,
)
from attar.cli.printing import print_pairs, say, unindented


@verb("show")
def show_verb(
    file: File,
    out: Annotated[Path, typer.Option(help="The picture to write, a .png.")],
    per_class: Annotated[int | None, typer.Option(min=1, help="At most so many items of each class.")] = None,
    data: Annotated[str | None, typer.Option(help="Real data whose images are drawn beside them.")] = None,
    epoch: Epoch = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of each distribution, its mean and samples.")] = None,
    between: Annotated[
        str | None, typer.Option(help="What lies between items: cat,dog or cat:3,dog:0; four are corners of a square.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Images from one item to another; else 8.")] = None,
    interpolation: Annotated[
        Literal["linear", "spherical"] | None, typer.Option(help="The way between two items; else linear.")
    ] = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
) -> None:
    """Draw the images of a file, class by class, or samples of its distributions, or what lies between items."""
    refuse_output(out, overwrite)
    import attar
    from attar.base.progress import Silent

    distilled = attar.load(file)
    real = None if data is None else real_images(distilled, data, None, None, resize, Silent()).train
    attar.show(
        distilled, out, overwrite=overwrite, per_class=per_class, real=real, epoch=epoch,
        samples=samples, between=between, steps=steps, interpolation=interpolation,
    )  # fmt: skip
    say(str(out))


@verb("info")
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


@verb("export")
def export_verb(
    file: File,
    to: Annotated[
        Literal["imagefolder", "npz", "parquet", "webdataset", "dd-ranking"],
        typer.Option(help="A folder per class of PNG files, arrays, a Hugging Face data set, a .tar, tensors."),
    ],
    out: Annotated[Path, typer.Option(help="The folder or file to write.")],
    dataset: Annotated[
        str | None, typer.Option(help="For dd-ranking, its name of the data: CIFAR10, ImageNette, ...")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the images for tools without attar."""
    import attar

    attar.export(attar.load(file), to, out, overwrite=overwrite, dataset=dataset)
    say(str(out))


@verb("recipes")
def recipes_verb(
    name: Annotated[str | None, typer.Argument(help="Show this recipe's settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the recipes, or show one in full."""
    from attar.methods.recipes import REGISTRY, recipe

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


@verb("cite")
def cite_verb(
    what: Annotated[str, typer.Argument(help="A distilled file, or the name of a recipe.")],
) -> None:
    """Print the BibTeX behind a file or a recipe."""
    import attar

    say(attar.cite(what) or f"% {what} rests on no publication")


@verb("doctor")
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
