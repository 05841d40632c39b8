"""What the command line writes: results to stdout, and an error as one line on stderr with its exit status."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.base.errors import InputError, NonFiniteLossError, WorkerLostError
from attar.base.files import write_text

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet


class Stopped(Exception):
    """Ctrl-C or SIGTERM, and what to tell the user."""


class ReaderGone(Exception):
    """Whoever read our stdout has closed it, as `head` does. (typer would make its own of a BrokenPipeError.)"""


def say(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{text}\n")


def say_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout."""
    for line in lines:
        say(line)


def say_set(path: Path, distilled: DistilledSet) -> None:
    """Say which set was written to `path`, and how large the file is."""
    say(f"{path}: {len(distilled)} items of {len(distilled.classes)} classes in {path.stat().st_size} bytes")


def say_pairs(pairs: list[tuple[str, str]]) -> None:
    """Write a line for each name and text, the texts below one another."""
    width = max(len(name) for name, _ in pairs)
    say_lines(f"{name:<{width}}  {text}" for name, text in pairs)


def show_table(table: Any) -> None:
    """Write a table of rich to stdout, as wide as the terminal, or wide enough for any table where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table, markup=False)


def write_card(path: Path | None, card: Any) -> None:
    """Write a card as JSON, or to a .md as Markdown, and say the file's name; None writes nothing."""
    if path is None:
        return
    write_text(path, card.as_markdown() if path.suffix.lower() == ".md" else card.to_json())
    say(str(path))


def exit_status(error: Exception) -> int:
    """Write one line to stderr for what the user can mend; anything else is our fault and keeps its traceback."""
    if isinstance(error, BrokenPipeError | ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as shells report SIGPIPE
    if isinstance(error, Stopped):
        status, text = 130, str(error)
    elif isinstance(error, NonFiniteLossError | WorkerLostError):
        status, text = 1, str(error)
    elif isinstance(error, InputError):
        status, text = 2, str(error)
    elif isinstance(error, OSError):
        status, text = 2, _os_text(error)
    elif hasattr(error, "format_message"):
        status, text = 2, _usage_text(error)
    else:
        raise error
    if text:
        sys.stderr.write(f"attar: {' '.join(text.split())}\n")
    return status


def _os_text(error: OSError) -> str:
    reason = error.strerror or str(error)
    place = f"{error.filename}: " if error.filename else ""
    mend = "; free some space, or write elsewhere" if error.errno == errno.ENOSPC else ""
    return f"{place}{reason}{mend}"


def _usage_text(error: Any) -> str:
    """Return what typer says of a wrong command line, with the nearest option for an unknown one."""
    received = getattr(error, "option_name", None)
    if received is None or not type(error).__name__.startswith("NoSuchOption"):
        return str(error.format_message())
    options = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx else []
    nearest = difflib.get_close_matches(received, options, n=1, cutoff=0.5)
    return f"no such option {received}" + (f"; did you mean {nearest[0]}?" if nearest else "; --help lists them")
