"""The command line's application: how a function becomes a verb, and its parameters the verb's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from attar.cli.terminal import ReaderGone, Stopped

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distils a labelled image dataset into one small file, and says honestly what the file is worth.",
    epilog="Long work is stopped with Ctrl-C and continues when the same command is repeated.",
)


def verb(name: str, stopped: str = "stopped") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function the verb `name`; `stopped` is what Ctrl-C says.

    Parameters before the * are the verb's arguments, all others its options. `Annotated[T, "text"]` gives the help;
    a typer.Option in the text's place says more. A parameter whose type is a dataclass is a group of options: typer is
    shown the dataclass's fields, and the function gets the dataclass filled with what was given.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            try:
                _call(function, given)
            except KeyboardInterrupt:
                raise Stopped(stopped) from None
            except BrokenPipeError:
                raise ReaderGone from None

        parameters = _parameters(function)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__module__, run.__doc__ = function.__module__, function.__doc__
        app.command(name)(run)
        return function

    return register


def _call(function: Any, given: dict[str, Any]) -> Any:
    """Call a function, or make a group, with what was given for its parameters and for those of groups among them."""
    hints = _hints(function).items()
    return function(**{name: _call(hint, given) if is_dataclass(hint) else given[name] for name, hint in hints})


def _hints(function: Any) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return"}


def _parameters(function: Any) -> list[inspect.Parameter]:
    """Return the parameters as typer wants them, with a group's fields in the place of the group."""
    hints, parameters = _hints(function), list[inspect.Parameter]()
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if is_dataclass(hint):
            parameters += _parameters(hint)
            continue
        kind, text = (*get_args(hint), None)[:2] if hasattr(hint, "__metadata__") else (hint, None)
        if isinstance(text, str):
            # Without a name of its own a flag would get a second one, --no-...
            names = [f"--{name.replace('_', '-')}"] if kind is bool else []
            option = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            hint = Annotated[kind, typer.Option(*names, help=text) if option else typer.Argument(help=text)]
        parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
    return parameters


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
