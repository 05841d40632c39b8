"""What the command line writes to stdout, and the files that it names there."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_and_say(path: Path, text: str) -> None:
    """Write a file, and say its name."""
    from attar.base.files import write_text

    write_text(path, text)
    say(str(path))


def say(text: str) -> None:
    """A line to stdout."""
    sys.stdout.write(f"{text}\n")


def say_lines(lines: Iterable[str]) -> None:
    """Lines to stdout."""
    for line in lines:
        say(line)


def show_table(renderable: Any) -> None:
    """To stdout, as wide as the terminal, or wide enough for any table where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(renderable, markup=False)


def print_pairs(pairs: list[tuple[str, str]]) -> None:
    """A line for each name and text, the texts below one another."""
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        say(f"{name:<{width}}  {text}")


def unindented(docstring: str | None) -> str:
    """A docstring as it is read."""
    import inspect

    return inspect.cleandoc(docstring or "")
