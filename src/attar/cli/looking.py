"""Verbs that look: at files, recipes, and the machine."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

import attar
from attar.base.progress import Silent
from attar.cli import options
from attar.cli.app import verb
from attar.cli.terminal import say, say_pairs


@verb("report")
def report_verb(
    files: Annotated[list[Path], "One or more distilled files."],
    *,
    out: Annotated[Path, "The page to write, a .html."],
    scores: Annotated[
        list[Path] | None, "A scorecard that evaluate --json wrote of one of the files; repeatable."
    ] = None,
    data: Annotated[str | None, "Real data whose images are shown beside them."] = None,
    against: Annotated[
        str | None, "The baseline that accuracies are compared with class by class; else random."
    ] = None,
    resize: options.Resize = "refuse",
    overwrite: options.Overwrite = False,
) -> None:
    """Write one HTML page: images, scores beside baselines, sizes, losses, provenance, citations."""
    options.refuse_outputs(overwrite, out)
    from attar.report.page.writing import write_page

    real = None
    if data is not None:
        real = [options.RealImages(resize=resize).like(attar.load(file), data, Silent()).train for file in files]
    write_page(files, out, scores=scores or [], real=real, against=against, overwrite=overwrite)
    say(str(out))


@verb("show")
def show_verb(
    file: options.File,
    *,
    out: Annotated[Path, "The picture to write, a .png."],
    per_class: Annotated[int | None, typer.Option(min=1, help="At most so many items of each class.")] = None,
    data: Annotated[str | None, "Real data whose images are drawn beside them."] = None,
    epoch: Annotated[
        int | None, typer.Option(min=0, help="A sample of items that are distributions; else their means.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of each distribution, its mean and samples.")] = None,
    between: Annotated[
        str | None, "What lies between items: cat,dog or cat:3,dog:0; four are corners of a square."
    ] = None,
    steps: Annotated[int | None, "Images from one item to another; else 8."] = None,
    interpolation: Annotated[Literal["linear", "spherical"] | None, "The way between two items; else linear."] = None,
    resize: options.Resize = "refuse",
    overwrite: options.Overwrite = False,
) -> None:
    """Draw the images of a file, class by class, or samples of its distributions, or what lies between items."""
    options.refuse_outputs(overwrite, out)
    distilled = attar.load(file)
    real = None if data is None else options.RealImages(resize=resize).like(distilled, data, Silent()).train
    attar.show(
        distilled, out, overwrite=overwrite, per_class=per_class, real=real, epoch=epoch,
        samples=samples, between=between, steps=steps, interpolation=interpolation,
    )  # fmt: skip
    say(str(out))


@verb("info")
def info_verb(
    file: options.File,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say what a file is.

    Classes, sizes, recipe, data, where its items came from, and scores.
    """
    from attar.report.facts import facts

    distilled = attar.load(file)
    if as_json:
        say(json.dumps(distilled.describe(), indent=2, ensure_ascii=False))
    else:
        say_pairs(facts(distilled))


@verb("export")
def export_verb(
    file: options.File,
    *,
    to: Annotated[
        Literal["imagefolder", "npz", "parquet", "webdataset", "dd-ranking"],
        "A folder per class of PNG files, arrays, a Hugging Face data set, a .tar, tensors.",
    ],
    out: Annotated[Path, "The folder or file to write."],
    dataset: Annotated[str | None, "For dd-ranking, its name of the data: CIFAR10, ImageNette, ..."] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the images for tools without attar."""
    attar.export(attar.load(file), to, out, overwrite=overwrite, dataset=dataset)
    say(str(out))


@verb("recipes")
def recipes_verb(
    name: Annotated[str | None, "Show this recipe's settings."] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the recipes, or show one in full."""
    from attar.methods.recipes import REGISTRY, recipe

    if name is not None:
        chosen = recipe(name)
        if not as_json:
            say(f"{inspect.cleandoc(REGISTRY[name].__doc__ or '')}\n")
        say(chosen.model_dump_json(indent=2))
        return
    recipes = [recipe(name) for name in REGISTRY]
    if as_json:
        say(json.dumps([json.loads(recipe.model_dump_json()) for recipe in recipes], indent=2))
        return
    say_pairs([(recipe.name, recipe.title) for recipe in recipes])


@verb("cite")
def cite_verb(
    what: Annotated[str, "A distilled file, or the name of a recipe."],
) -> None:
    """Print the BibTeX behind a file or a recipe."""
    say(attar.cite(what) or f"% {what} rests on no publication")


@verb("doctor")
def doctor_verb(
    *,
    no_self_check: Annotated[bool, "Only look; distil nothing."] = False,
) -> None:
    """Look at this machine, and distil a little.

    Python, torch, devices, threads, memory, cache, optional packages, compiler, and a run of a few steps.
    """
    checks = attar.doctor(self_check=not no_self_check)
    say_pairs([(f"{check.name} [{check.status}]", check.text) for check in checks])
    if any(check.status == "fault" for check in checks):
        raise typer.Exit(1)
