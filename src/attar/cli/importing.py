"""The verb that takes in what others released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attar.base.errors import InputError
from attar.cli.app import refuse_output, shown_progress, verb
from attar.cli.options import Channels, ImageSize, Overwrite, Quiet, Resize, Test, listed, side
from attar.cli.printing import say


@verb("import")
def import_verb(
    source: Annotated[
        str, typer.Argument(help="A .pt or .npz file, a folder of class folders or of .parquet, or hf:NAME[:SPLIT].")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, e.g. theirs.attar.safetensors.")],
    data: Annotated[
        str | None, typer.Option(help="The real data: names and order of classes, statistics, the ZCA matrix.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels in a file of their own, .pt or .npy.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names in the order of the labels, cat,dog,fox; else the data's.")
    ] = None,
    values: Annotated[
        Literal["plain", "inputs"] | None, typer.Option(help="Pictures, or normalised inputs; else detected.")
    ] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Of network inputs: cifar10, imagenet, ..., data, none, or mean/std.")
    ] = None,
    zca: Annotated[bool, typer.Option("--zca", help="Inputs are whitened as MTT's code does; needs --data.")] = False,
    rate: Annotated[float | None, typer.Option(help="The learned learning rate, where the file has none.")] = None,
    label_kind: Annotated[
        Literal["logits", "probabilities"] | None, typer.Option(help="What soft labels are; else detected.")
    ] = None,
    grid: Annotated[int, typer.Option(help="Images hold so many tiles along each side (IDC's factor).")] = 1,
    experiment: Annotated[int, typer.Option(help="Which of several sets in the file, counted from 0.")] = 0,
    name: Annotated[str | None, typer.Option(help="The data it was distilled from, in words; else --data.")] = None,
    storage: Annotated[
        Literal["float32", "float16", "int8"] | None, typer.Option(help="Else float32, and float16 for pictures.")
    ] = None,
    image_size: ImageSize = None,
    channels: Channels = "keep",
    test: Test = None,
    resize: Resize = "refuse",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Take in a set that others released, and say what was assumed of it."""
    refuse_output(out, overwrite)
    if data is None and test is not None:
        raise InputError("--test has no effect without --data; give it, or leave --test out")
    if resize != "refuse" and data is None and image_size is None:
        raise InputError(f"--resize {resize} has no effect without --data or --image-size; leave it out")
    import attar

    with shown_progress(quiet) as progress:
        made = attar.import_set(
            source, data=data, labels=labels, classes=listed(classes), values=values, normalization=normalization,
            zca=zca, rate=rate, label_kind=label_kind, grid=grid, experiment=experiment, name=name, storage=storage,
            image_size=None if image_size is None else side(image_size), channels=channels, test=test, resize=resize,
            progress=progress,
        )  # fmt: skip
    made.save(out, overwrite=overwrite)
    for line in made.manifest.recipe["assumed"]:
        say(f"assumed: {line}")
    say(f"{out}: {len(made)} items of {len(made.classes)} classes in {out.stat().st_size} bytes")
