"""The options that verbs of the command line share, and how their texts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attar.base.errors import InputError

if TYPE_CHECKING:
    from attar.base.engines import Engine

Data = Annotated[
    str, typer.Argument(help="A folder with one folder per class, .npz, .npy, .parquet, hf:NAME, or digits (built in).")
]
DataOption = Annotated[str, typer.Option(help="The real data: a folder, file, hf:NAME or digits, as for distill.")]
File = Annotated[Path, typer.Argument(help="A distilled file.")]
Test = Annotated[str | None, typer.Option(help="Separate test data, of the same classes.")]
Classes = Annotated[str | None, typer.Option(help="Only these: cat,dog,fox, or the name of an ImageNet subset: bird.")]
ImageSize = Annotated[str | None, typer.Option(help="Side in pixels, 64, or height x width, 64x96.")]
Resize = Annotated[
    Literal["refuse", "squash", "crop"], typer.Option(help="What to do with images of another size or shape.")
]
Channels = Annotated[Literal["keep", "grey", "rgb"], typer.Option(help="Turn every image grey, or into RGB.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Epoch = Annotated[int | None, typer.Option(min=0, help="A sample of items that are distributions; else their means.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Protocol = Annotated[
    str,
    typer.Option(
        help="How networks are trained: quick, dc-bench, idc, latentdd, mtt, ld3m, lic, rded, sre2l, d3, dd-ranking, "
        "rethinkdc or a .json."
    ),
]
Networks = Annotated[
    str | None,
    typer.Option(help="Architectures, e.g. convnet:d3w64-batch,resnet50, or all, or unseen; else the protocol's."),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Networks trained for each row; else the protocol's number.")]
Baselines = Annotated[
    str | None, typer.Option(help="Only these rows beside it: names, or usual, coresets, bytes, dd-ranking, all.")
]
NoBaselines = Annotated[bool, typer.Option("--no-baselines", help="Only the distilled sets themselves.")]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Mirror training images; else as the protocol, never digits.")
]
Curves = Annotated[
    bool,
    typer.Option("--curves", help="Keep accuracies of up to 12 epochs in the card; the last alone counts."),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Train again what an earlier evaluation already trained.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the card as JSON; - for stdout.")]
Codec = Annotated[str | None, typer.Option(help="Another codec: pixels, zca, pca:f4c4, autoencoder:FOLDER.")]
EngineName = Annotated[Literal["local", "ray"], typer.Option("--engine", help="Where jobs run: here, or on Ray.")]
Address = Annotated[
    str | None, typer.Option(help="Ray's cluster, e.g. auto or HOST:6379; else RAY_ADDRESS, or one started here.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs at a time on Ray; else as many as the processors hold.")]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs of one job on Ray: 1, or a fraction, 0.25.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's setting; repeatable.")
]


def assignments(texts: list[str]) -> dict[str, Any]:
    """{"steps": 50} from ["steps=50"]; a value that is not JSON is text. Raises InputError."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text!r} is not KEY=VALUE, e.g. --set steps=100")
        if key.strip() in settings:
            raise InputError(f"--set {key.strip()} is given twice; give it once")
        try:
            settings[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[key.strip()] = value
    return settings


def loading_arguments(
    test: str | None, classes: str | None, image_size: str | None, resize: str, channels: str
) -> dict[str, Any]:
    """The arguments of `load_images` from the options' texts. Raises InputError."""
    return {
        "test": test,
        "classes": names(classes) if classes and "," in classes else classes,
        "image_size": None if image_size is None else side(image_size),
        "resize": resize,
        "channels": channels,
    }


def chosen_engine(
    engine: str, address: str | None, workers: int | None, gpus: float | None, needs: str | None = None
) -> Engine:
    """The engine of `--engine` and its options.

    Args:
        engine: its name.
        address: `--address`.
        workers: `--workers`.
        gpus: `--gpus`.
        needs: an option that is not given and without which there is one job only; None where there are several.

    Raises:
        InputError: an option that has no effect, or one that the engine refuses.
    """
    given = {"--address": address, "--workers": workers, "--gpus": gpus}
    idle = [option for option, value in given.items() if value is not None]
    if engine == "local" and idle:
        raise InputError(f"{', '.join(idle)} has no effect without --engine ray; give it, or leave {idle[0]} out")
    if engine != "local" and needs is not None:
        raise InputError(f"--engine {engine} has no effect without {needs}, for there is one job only; give {needs}")
    from attar.base.engines import engine_named

    return engine_named(engine, address=address, workers=workers, gpus=gpus)


def names(text: str) -> list[str]:
    """["a", "b"] from "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def listed(text: str | None) -> list[str] | None:
    """`names`, or None for None."""
    return None if text is None else names(text)


def chosen_baselines(text: str | None, none: bool) -> bool | list[str]:
    """Whether baselines are wanted, or which. Raises InputError."""
    if text is not None and none:
        raise InputError("--baselines and --no-baselines are both given; give one of them")
    return not none if text is None else names(text)


def memory_budget(budget: str | None, memory_bytes: str | None, out: Path | None) -> str:
    """The budget of a replay memory, of each class or of all; and `out` must be a picture. Raises InputError."""
    from attar.runs.budget import Budget, num_bytes

    if out is not None and out.suffix.lower() != ".png":
        raise InputError(f"--out {out} ends in {out.suffix or 'nothing'}; write a .png, and --json for everything")
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


def side(text: str) -> int | tuple[int, int]:
    """64 from "64", (64, 96) from "64x96". Raises InputError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--image-size {text!r} is not understood; give pixels, 64, or height x width, 64x96")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
