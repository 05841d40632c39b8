"""The command line: verbs to library functions, and errors in one line."""

from __future__ import annotations

import os
import sys

from attar.base.process import prepare_process
from attar.cli import auditing, distilling, evaluating, importing, leaderboard, looking, ranking, reporting
from attar.cli.app import app
from attar.cli.exit_status import exit_status

VERBS = (distilling, importing, evaluating, ranking, leaderboard, auditing, reporting, looking)
"""Modules whose verbs there are, in the order of the help."""

# Verbs register themselves when their module is imported, which is in the order of the modules' names.
app.registered_commands.sort(key=lambda command: [each.__name__ for each in VERBS].index(command.callback.__module__))


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 the run failed, 2 bad input, 130 stopped by Ctrl-C.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    prepare_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(args=arguments or ["--help"], prog_name="attar", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
    except Exception as error:
        if os.environ.get("ATTAR_DEBUG"):
            raise
        return exit_status(error)
    return status if isinstance(status, int) else 0
