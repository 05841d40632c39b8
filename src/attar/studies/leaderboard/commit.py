"""Which commit of attar's source is running."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from attar.base.errors import InputError

SOURCE = Path(__file__).parents[2]
MEND = "give it with --commit"


def source_commit(given: str | None = None, source: Path = SOURCE) -> str:
    """The commit of attar's source, 40 hexadecimal digits.

    Args:
        given: by the user; must be whole.
        source: attar's folder.

    Raises:
        InputError: it is not known, not whole, or the source was changed since.
    """
    if given is not None:
        if re.fullmatch("[0-9a-f]{40}", given):
            return given
        raise InputError(f"--commit {given} is not a whole commit; give its 40 hexadecimal digits")
    # A checkout of something else may lie around an installed attar: only a folder that git knows counts.
    if _git(source, "ls-files", "--error-unmatch", "base/errors.py") is None:
        raise InputError(f"attar does not run from a checkout of its source, so its commit is not known; {MEND}")
    if _git(source, "status", "--porcelain", "--", "."):
        raise InputError("attar's source was changed since its last commit, which would name other code; commit first")
    commit = _git(source, "rev-parse", "HEAD")
    if commit is None:
        raise InputError(f"the commit of attar's source cannot be read; {MEND}")
    return commit


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
