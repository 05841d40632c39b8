"""The options that verbs share, each declared once: alone, or in a group of those that are given together.

A group is a dataclass; `attar.cli.app.verb` turns its fields into options. Its methods say what the options mean.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import attar
from attar.base.engines import Engine, engine_named
from attar.base.errors import InputError
from attar.base.files import refuse_existing
from attar.base.progress import Progress, RichProgress, Silent

if TYPE_CHECKING:
    from attar.data.image_set import Splits
    from attar.sets.distilled import DistilledSet

Data = Annotated[str, "A folder with one folder per class, .npz, .npy, .parquet, hf:NAME, or digits (built in)."]
DataOption = Annotated[str, "The real data: a folder, file, hf:NAME or digits, as for distill."]
File = Annotated[Path, "A distilled file."]
Test = Annotated[str | None, "Separate test data, of the same classes."]
Classes = Annotated[str | None, "Only these: cat,dog,fox, or the name of an ImageNet subset: bird."]
ImageSize = Annotated[str | None, "Side in pixels, 64, or height x width, 64x96."]
Resize = Annotated[Literal["refuse", "squash", "crop"], "What to do with images of another size or shape."]
Channels = Annotated[Literal["keep", "grey", "rgb"], "Turn every image grey, or into RGB."]
Device = Annotated[str, "auto, cpu, cuda or cuda:N."]
Codec = Annotated[str | None, "Another codec: pixels, zca, pca:f4c4, autoencoder:FOLDER."]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's setting; repeatable.")
]
Overwrite = Annotated[bool, "Replace what exists."]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Protocol = Annotated[
    str,
    "How networks are trained: quick, dc-bench, idc, latentdd, mtt, ld3m, lic, rded, sre2l, d3, dd-ranking, rethinkdc "
    "or a .json.",
]
Networks = Annotated[
    str | None, "Architectures, e.g. convnet:d3w64-batch,resnet50, or all, or unseen; else the protocol's."
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Networks trained for each row; else the protocol's number.")]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Mirror training images; else as the protocol, never digits.")
]
NoCache = Annotated[bool, "Train again what an earlier evaluation already trained."]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the card as JSON; - for stdout.")]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a verb reads real images."""

    test: Test = None
    classes: Classes = None
    image_size: ImageSize = None
    resize: Resize = "refuse"
    channels: Channels = "keep"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `load_images`. Raises InputError."""
        classes = names(self.classes) if self.classes and "," in self.classes else self.classes
        size = None if self.image_size is None else side(self.image_size)
        return {**vars(self), "classes": classes, "image_size": size}


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """How a verb reads real images that must look like those of a distilled set."""

    test: Test = None
    classes: Classes = None
    resize: Resize = "refuse"

    def like(self, distilled: DistilledSet, data: str, progress: Progress) -> Splits:
        """Load the real images in the size, colours and classes of the distilled ones."""
        channels, height, width = distilled.image_shape
        colours: Literal["grey", "rgb"] = "grey" if channels == 1 else "rgb"
        loading = Loading(
            test=self.test, classes=self.classes, image_size=f"{height}x{width}", resize=self.resize, channels=colours
        ).arguments()
        loading["classes"] = loading["classes"] or list(distilled.classes)
        return attar.load_images(data, progress=progress, **loading)


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Where independent trainings run."""

    engine: Annotated[Literal["local", "ray"], "Where jobs run: here, or on Ray."] = "local"
    address: Annotated[str | None, "Ray's cluster, e.g. auto or HOST:6379; else RAY_ADDRESS, or one started here."] = (
        None
    )
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time on Ray; else as many as the processors hold.")
    ] = None
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of one job on Ray: 1, or a fraction, 0.25.")] = None

    def chosen(self, needs: str | None = None) -> Engine:
        """Return the engine, with its options.

        Args:
            needs: an option that is not given and without which there is one job only; None where there are several.

        Raises:
            InputError: an option that has no effect, or one that the engine refuses.
        """
        options = {"address": self.address, "workers": self.workers, "gpus": self.gpus}
        idle = [f"--{option}" for option, value in options.items() if value is not None]
        if self.engine == "local" and idle:
            raise InputError(f"{', '.join(idle)} has no effect without --engine ray; give it, or leave {idle[0]} out")
        if self.engine != "local" and needs is not None:
            raise InputError(
                f"--engine {self.engine} has no effect without {needs}, for there is one job only; give {needs}"
            )
        return engine_named(self.engine, **options)


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a verb writes: over what exists, and with a bar of its progress."""

    overwrite: Overwrite = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Session:
    """How networks are trained on a file and tested on real images: what the verbs that do so share."""

    device: Device = "auto"
    no_cache: NoCache = False
    real: RealImages
    jobs: Jobs
    output: Output

    @contextlib.contextmanager
    def opened(self, distilled: DistilledSet, data: str, engine: Engine) -> Iterator[tuple[Splits, dict[str, Any]]]:
        """Load the real images, and return them with the arguments that evaluate, compare, rank and audit share."""
        with engine, progress_bar(self.output.quiet) as progress:
            shared = {"device": self.device, "cache": not self.no_cache, "progress": progress, "engine": engine}
            yield self.real.like(distilled, data, progress), shared


def progress_bar(quiet: bool) -> Any:
    """Return the progress bar, or a silent one, as a context manager."""
    return contextlib.nullcontext(Silent()) if quiet else RichProgress()


def refuse_outputs(overwrite: bool, *paths: Path | None) -> None:
    """Raise InputError for a file that exists, unless it may be replaced, or that could not be written."""
    for path in paths:
        if path is not None and path != Path("-"):
            refuse_existing(path, overwrite)


def require_suffix(option: str, path: Path | None, suffixes: Sequence[str], mend: str) -> None:
    """Raise InputError, which says `mend`, for a file of another kind than the option writes."""
    if path is not None and path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path} ends in {path.suffix or 'nothing'}; write {mend}")


def assignments(texts: Sequence[str] | None) -> dict[str, Any]:
    """Turn ["steps=50"] into {"steps": 50}; a value that is not JSON is text. Raises InputError."""
    settings: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {text!r} is not KEY=VALUE, e.g. --set steps=100")
        if key in settings:
            raise InputError(f"--set {key} is given twice; give it once")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def names(text: str | None) -> list[str] | None:
    """Turn "a, b" into ["a", "b"], and None into None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def side(text: str) -> int | tuple[int, int]:
    """Turn "64" into 64, and "64x96" into (64, 96). Raises InputError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--image-size {text!r} is not understood; give pixels, 64, or height x width, 64x96")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
