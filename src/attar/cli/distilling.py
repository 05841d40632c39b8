"""Verbs that make: sets, experts, observers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attar.cli.app import refuse_output, shown_progress, verb
from attar.cli.options import (
    Address,
    Channels,
    Classes,
    Codec,
    Data,
    Device,
    EngineName,
    Gpus,
    ImageSize,
    Overwrite,
    Quiet,
    Resize,
    Settings,
    Test,
    Workers,
    assignments,
    chosen_engine,
    listed,
    loading_arguments,
)
from attar.cli.printing import say


@verb("distill", stopped="stopped; the same command continues from the last saved step")
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
    subtasks: Annotated[
        int | None, typer.Option(help="Split the classes into so many parts, distil each for itself, and merge them.")
    ] = None,
    split: Annotated[
        Literal["contiguous", "random", "similarity"] | None,
        typer.Option(help="How classes are split: by their order (the usual), by chance, or similar ones together."),
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
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
    place = chosen_engine(engine, address, workers, gpus, needs="--subtasks" if subtasks is None else None)
    import attar

    with place, shown_progress(quiet) as progress:
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
            subtasks=subtasks,
            split=split,
            engine=None if subtasks is None else place,
            overwrite=overwrite,
            progress=progress,
            **loading,
        )
    say(f"{out}: {len(result)} items of {len(result.classes)} classes in {out.stat().st_size} bytes")


@verb("merge")
def merge_verb(
    files: Annotated[list[Path], typer.Argument(help="Two or more distilled files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, e.g. all.attar.safetensors.")],
    order: Annotated[
        str | None, typer.Option(help="All class names in the order of the labels, cat,dog,fox; else by name.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put several files into one.

    Their classes are all different, or the same; in whatever order they are given, the result is the same file.
    """
    refuse_output(out, overwrite)
    import attar

    result = attar.merge(files, order=listed(order))
    result.save(out, overwrite=overwrite)
    say(f"{out}: {len(result)} items of {len(result.classes)} classes in {out.stat().st_size} bytes")


@verb("experts", stopped="stopped; the same command continues after the last whole epoch")
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
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
    quiet: Quiet = False,
) -> None:
    """Train the experts whose trajectories a recipe matches.

    They are kept in the cache, where distill finds them; it trains what is missing itself.
    """
    settings = assignments(set_ or [])
    loading = loading_arguments(test, classes, image_size, resize, channels)
    place = chosen_engine(engine, address, workers, gpus)
    from attar.runs.experts import make_experts, summary

    with place, shown_progress(quiet) as progress:
        buffer = make_experts(
            data, recipe, count=count, device=device, settings=settings, codec=codec, progress=progress,
            engine=place, **loading,
        )  # fmt: skip
    say(summary(buffer))


@verb("observer", stopped="stopped; the same command continues after the last whole epoch")
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
    from attar.runs.observer import make_observer, summary

    with shown_progress(quiet) as progress:
        made = make_observer(
            data, network=network, weights=weights, device=device, settings=settings, progress=progress, **loading
        )
    say(summary(made))


@verb("train-prior", stopped="stopped; the same command continues from the last kept step")
def train_prior_verb(
    data: Data,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    codec: Annotated[
        str | None, typer.Option(help="Of its codes: pixels, pca:f4c12-whiten, autoencoder:FOLDER.")
    ] = None,
    device: Device = "auto",
    set_: Settings = None,
    test: Test = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = "refuse",
    channels: Channels = "keep",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a small class-conditional diffusion model of the data, for distilling through it (LD3M)."""
    settings = assignments(set_ or [])
    loading = loading_arguments(test, classes, image_size, resize, channels)
    from attar.runs.prior import summary, train_prior

    with shown_progress(quiet) as progress:
        prior = train_prior(
            data,
            out,
            codec=codec,
            device=device,
            settings=settings,
            overwrite=overwrite,
            progress=progress,
            **loading,
        )
    say(summary(prior, out))
