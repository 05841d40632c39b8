"""The command line: verbs to library functions, and errors in one line."""

from __future__ import annotations

import os
import sys

from attar.base.process import prepare_process
from attar.cli import distilling, evaluating, looking, studying
from attar.cli.app import app
from attar.cli.terminal import exit_status

# A verb registers itself when its module is imported; the help lists the verbs in the order of these modules.
ORDER = [module.__name__ for module in (distilling, evaluating, studying, looking)]
app.registered_commands.sort(key=lambda command: ORDER.index(command.callback.__module__))


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
