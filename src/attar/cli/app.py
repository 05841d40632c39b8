"""The command line's application: how verbs are registered, and what they share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar.cli.exit_status import ReaderGone, Stopped
from attar.cli.options import loading_arguments

if TYPE_CHECKING:
    from attar.data.image_set import Splits
    from attar.sets.distilled import DistilledSet

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distils a labelled image dataset into one small file, and says honestly what the file is worth.",
    epilog="Long work is stopped with Ctrl-C and continues when the same command is repeated.",
)


def verb(name: str, stopped: str = "stopped") -> Callable[[Callable[..., None]], Callable[..., None]]:
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

        typer.echo(f"attar {attar.base.version.__version__}")
        raise typer.Exit


@app.callback()
def attar_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distils a labelled image dataset into one small file, and says honestly what the file is worth."""


def shown_progress(quiet: bool) -> Any:
    """The bar, or silence, as a context manager."""
    from attar.base.progress import RichProgress, Silent

    return contextlib.nullcontext(Silent()) if quiet else RichProgress()


def real_images(
    distilled: DistilledSet, data: str, test: str | None, classes: str | None, resize: str, progress: Any
) -> Splits:
    """The real images in the size, colours and classes of the distilled ones."""
    import attar

    channels, height, width = distilled.image_shape
    loading = loading_arguments(test, classes, f"{height}x{width}", resize, "grey" if channels == 1 else "rgb")
    loading["classes"] = loading["classes"] or list(distilled.classes)
    return attar.load_images(data, progress=progress, **loading)


def refuse_output(path: Path | None, overwrite: bool) -> None:
    """Refuse what could not be written at the end, before any work."""
    from attar.base.files import refuse_existing

    if path is not None and path != Path("-"):
        refuse_existing(path, overwrite)
