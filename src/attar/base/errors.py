"""What a user can get wrong, said in one line: what was received, what is allowed, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2.

    A plain ValueError is not caught there: it is our own fault and keeps its traceback.
    """


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or not a number. The run stopped and its last good state is saved."""


class WorkerLostError(RuntimeError):
    """The processes that a job ran in died, one after another. What other jobs had given is kept."""


MOST_NAMES = 20
"""Names that a line lists; of more, it lists the nearest."""


def unknown(what: str, received: str, allowed: Iterable[str]) -> InputError:
    """An InputError for a name that does not exist, with the nearest that does; of many names, with the near ones.

    Example:
        >>> str(unknown("codec", "pcaa", ["pca", "dct"]))
        "unknown codec 'pcaa'; did you mean 'pca'? There are: dct, pca"
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(received, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    if len(names) <= MOST_NAMES:
        return InputError(f"unknown {what} {received!r}{hint} There are: {', '.join(names)}")
    near = difflib.get_close_matches(received, names, n=5, cutoff=0.4) or names[:5]
    return InputError(f"unknown {what} {received!r}{hint} Near are: {', '.join(near)}; there are {len(names)}")
