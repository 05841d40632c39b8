"""From an exception to one line on stderr and an exit status."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from typing import Any

from attar.base.errors import InputError, NonFiniteLossError, WorkerLostError


class Stopped(Exception):
    """Ctrl-C or SIGTERM, and what to tell the user."""


class ReaderGone(Exception):
    """Whoever read our stdout has closed it, as `head` does. (typer would make its own of a BrokenPipeError.)"""


def exit_status(error: Exception) -> int:
    """One line on stderr for what the user can mend; anything else is our fault and keeps its traceback."""
    if isinstance(error, Stopped):
        return _complain(str(error), 130)
    if isinstance(error, NonFiniteLossError | WorkerLostError):
        return _complain(str(error), 1)
    if isinstance(error, BrokenPipeError | ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as shells report SIGPIPE
    if isinstance(error, InputError):
        return _complain(str(error), 2)
    if isinstance(error, OSError):
        return _complain(_os_text(error), 2)
    if hasattr(error, "format_message"):
        return _complain(_usage_text(error), 2)
    raise error


def _complain(text: str, status: int) -> int:
    if text:
        sys.stderr.write(f"attar: {' '.join(text.split())}\n")
    return status


def _os_text(error: OSError) -> str:
    reason = error.strerror or str(error)
    place = f"{error.filename}: " if error.filename else ""
    mend = "; free some space, or write elsewhere" if error.errno == errno.ENOSPC else ""
    return f"{place}{reason}{mend}"


def _usage_text(error: Any) -> str:
    """What typer says of a wrong command line, with the nearest option for an unknown one."""
    received = getattr(error, "option_name", None)
    if received is None or not type(error).__name__.startswith("NoSuchOption"):
        return str(error.format_message())
    known = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx else []
    nearest = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
    return f"no such option {received}" + (f"; did you mean {nearest[0]}?" if nearest else "; --help lists them")
