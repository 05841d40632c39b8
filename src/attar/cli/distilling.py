"""Verbs that make sets, and what sets are made with: experts, observers, priors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import attar
from attar.base.errors import InputError
from attar.cli import options
from attar.cli.app import verb
from attar.cli.terminal import say, say_lines, say_set


@dataclass(frozen=True, kw_only=True)
class Distilling:
    """How `distill` distils: the arguments of `attar.distill` of the same names."""

    recipe: Annotated[str, "A method with its settings; attar recipes lists them."] = "latent-dm"
    budget: Annotated[str | None, "10ipc (images per class), 120lpc (items per class) or 5MB (the whole file)."] = None
    seed: Annotated[int, "Every random choice derives from it."] = 0
    device: options.Device = "auto"
    codec: options.Codec = None
    storage: Annotated[str | None, "How codes are stored: float32, float16 or int8."] = None
    label_bytes: Annotated[
        str | None, "The most that region labels may take, e.g. 500kB; else as the recipe has it."
    ] = None
    settings: options.Settings = None
    checkpoint_steps: Annotated[int, typer.Option(min=1, help="Steps between two saved states.")] = 100
    memory: Annotated[str | None, "The most memory to take, e.g. 8GB; by default most of what is free."] = None
    subtasks: Annotated[int | None, "Split the classes into so many parts, distil each for itself, and merge them."] = (
        None
    )
    split: Annotated[
        Literal["contiguous", "random", "similarity"] | None,
        "How classes are split: by their order (the usual), by chance, or similar ones together.",
    ] = None


@verb("distill", stopped="stopped; the same command continues from the last saved step")
def distill_verb(
    data: options.Data,
    *,
    out: Annotated[Path, "The file to write, e.g. photos.attar.safetensors."],
    distilling: Distilling,
    jobs: options.Jobs,
    loading: options.Loading,
    output: options.Output,
) -> None:
    """Distil labelled images into one small file."""
    arguments: dict[str, Any] = {**vars(distilling), "settings": options.assignments(distilling.settings)}
    arguments |= loading.arguments()
    engine = jobs.chosen(needs="--subtasks" if distilling.subtasks is None else None)
    if distilling.subtasks is not None:
        arguments["engine"] = engine
    with engine, options.progress_bar(output.quiet) as progress:
        distilled = attar.distill(data, out=out, overwrite=output.overwrite, progress=progress, **arguments)
    say_set(out, distilled)


@verb("merge")
def merge_verb(
    files: Annotated[list[Path], "Two or more distilled files."],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, e.g. all.attar.safetensors.")],
    order: Annotated[str | None, "All class names in the order of the labels, cat,dog,fox; else by name."] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Put several files into one.

    Their classes are all different, or the same; in whatever order they are given, the result is the same file.
    """
    options.refuse_outputs(overwrite, out)
    merged = attar.merge(files, order=options.names(order))
    merged.save(out, overwrite=overwrite)
    say_set(out, merged)


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """How a verb trains a network that distilling needs."""

    device: options.Device = "auto"
    settings: options.Settings = None
    loading: options.Loading

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the function that trains it. Raises InputError."""
        settings = options.assignments(self.settings)
        return {"device": self.device, "settings": settings, **self.loading.arguments()}


@verb("experts", stopped="stopped; the same command continues after the last whole epoch")
def experts_verb(
    data: options.Data,
    *,
    recipe: Annotated[str, "A method that matches trajectories; attar recipes lists them all."],
    count: Annotated[int | None, typer.Option(min=1, help="How many experts; else the recipe's.")] = None,
    codec: options.Codec = None,
    preparing: Preparing,
    jobs: options.Jobs,
    quiet: options.Quiet = False,
) -> None:
    """Train the experts whose trajectories a recipe matches.

    They are kept in the cache, where distill finds them; it trains what is missing itself.
    """
    arguments = preparing.arguments()
    engine = jobs.chosen()
    from attar.runs.preparing import experts_line, make_experts

    with engine, options.progress_bar(quiet) as progress:
        experts = make_experts(data, recipe, count=count, codec=codec, progress=progress, engine=engine, **arguments)
    say(experts_line(experts))


@verb("observer", stopped="stopped; the same command continues after the last whole epoch")
def observer_verb(
    data: options.Data,
    *,
    network: Annotated[str | None, "Its architecture, e.g. convnet:batch or resnet18:batch."] = None,
    weights: Annotated[str | None, "Instead of training: a .safetensors file, torchvision:NAME or timm:NAME."] = None,
    preparing: Preparing,
    quiet: options.Quiet = False,
) -> None:
    """Train or load, and check, the network that LIC, RDED and SRe2L ask; distill finds it in the cache."""
    arguments = preparing.arguments()
    from attar.runs.preparing import make_observer, observer_line

    with options.progress_bar(quiet) as progress:
        observer = make_observer(data, network=network, weights=weights, progress=progress, **arguments)
    say(observer_line(observer))


@verb("train-prior", stopped="stopped; the same command continues from the last kept step")
def train_prior_verb(
    data: options.Data,
    *,
    out: Annotated[Path, "The .safetensors file to write."],
    codec: Annotated[str | None, "Of its codes: pixels, pca:f4c12-whiten, autoencoder:FOLDER."] = None,
    preparing: Preparing,
    output: options.Output,
) -> None:
    """Train a small class-conditional diffusion model of the data, for distilling through it (LD3M)."""
    arguments = preparing.arguments()
    from attar.runs.preparing import prior_line, train_prior

    with options.progress_bar(output.quiet) as progress:
        prior = train_prior(data, out, codec=codec, overwrite=output.overwrite, progress=progress, **arguments)
    say(prior_line(prior, out))


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What is known of a set that others released: the arguments of `attar.import_set` of the same names."""

    data: Annotated[str | None, "The real data: names and order of classes, statistics, the ZCA matrix."] = None
    labels: Annotated[Path | None, "Labels in a file of their own, .pt or .npy."] = None
    classes: Annotated[str | None, "Names in the order of the labels, cat,dog,fox; else the data's."] = None
    values: Annotated[Literal["plain", "inputs"] | None, "Pictures, or normalised inputs; else detected."] = None
    normalization: Annotated[str | None, "Of network inputs: cifar10, imagenet, ..., data, none, or mean/std."] = None
    zca: Annotated[bool, "Inputs are whitened as MTT's code does; needs --data."] = False
    rate: Annotated[float | None, "The learned learning rate, where the file has none."] = None
    label_kind: Annotated[Literal["logits", "probabilities"] | None, "What soft labels are; else detected."] = None
    grid: Annotated[int, "Images hold so many tiles along each side (IDC's factor)."] = 1
    experiment: Annotated[int, "Which of several sets in the file, counted from 0."] = 0
    name: Annotated[str | None, "The data it was distilled from, in words; else --data."] = None
    storage: Annotated[Literal["float32", "float16", "int8"] | None, "Else float32, and float16 for pictures."] = None
    image_size: options.ImageSize = None
    channels: options.Channels = "keep"
    test: options.Test = None
    resize: options.Resize = "refuse"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `import_set`. Raises InputError, also for an option that has no effect."""
        if self.data is None and self.test is not None:
            raise InputError("--test has no effect without --data; give it, or leave --test out")
        if self.resize != "refuse" and self.data is None and self.image_size is None:
            raise InputError(f"--resize {self.resize} has no effect without --data or --image-size; leave it out")
        size = None if self.image_size is None else options.side(self.image_size)
        return {**vars(self), "classes": options.names(self.classes), "image_size": size}


@verb("import")
def import_verb(
    source: Annotated[str, "A .pt or .npz file, a folder of class folders or of .parquet, or hf:NAME[:SPLIT]."],
    *,
    out: Annotated[Path, "The file to write, e.g. theirs.attar.safetensors."],
    foreign: Foreign,
    output: options.Output,
) -> None:
    """Take in a set that others released, and say what was assumed of it."""
    options.refuse_outputs(output.overwrite, out)
    arguments = foreign.arguments()
    with options.progress_bar(output.quiet) as progress:
        imported = attar.import_set(source, progress=progress, **arguments)
    imported.save(out, overwrite=output.overwrite)
    say_lines(f"assumed: {line}" for line in imported.manifest.recipe["assumed"])
    say_set(out, imported)
