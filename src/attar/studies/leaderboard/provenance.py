"""Where a recorded run comes from: the commit of attar's source, and the command that distilled the set."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.base.config import override
from attar.base.errors import InputError
from attar.methods.recipes import REGISTRY, recipe
from attar.studies.distillation import budget_of

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet

SOURCE = Path(__file__).parents[2]
LONGEST_COMMAND = 4000


def source_commit(commit: str | None = None, source: Path = SOURCE) -> str:
    """The commit of attar's source, 40 hexadecimal digits.

    Args:
        commit: as given by the user; must be whole.
        source: attar's folder.

    Raises:
        InputError: it is not known, not whole, or the source was changed since.
    """
    if commit is not None:
        if re.fullmatch("[0-9a-f]{40}", commit):
            return commit
        raise InputError(f"--commit {commit} is not a whole commit; give its 40 hexadecimal digits")
    # A checkout of something else may lie around an installed attar: only a folder that git knows counts.
    if _git(source, "ls-files", "--error-unmatch", "base/errors.py") is None:
        raise InputError(
            "attar does not run from a checkout of its source, so its commit is not known; give it with --commit"
        )
    if _git(source, "status", "--porcelain", "--", "."):
        raise InputError("attar's source was changed since its last commit, which would name other code; commit first")
    commit = _git(source, "rev-parse", "HEAD")
    if commit is None:
        raise InputError("the commit of attar's source cannot be read; give it with --commit")
    return commit


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def distilling_command(distilled: DistilledSet, name: str) -> str:
    """`attar distill ...` that gives such a set, or "" where the manifest does not tell.

    The settings that differ from the recipe's are named, and the recipe with them is compared with the manifest's, so
    that the command is not a guess. Sets that were merged, or whose classes have different numbers of items, have none.

    Args:
        distilled: the set.
        name: what its file is called, without endings.
    """
    tree, manifest, budget = dict(distilled.manifest.recipe), distilled.manifest, budget_of(distilled)
    method = str(tree.get("name", ""))
    if method not in REGISTRY or len(manifest.shards) != 1 or budget is None:
        return ""
    changes = _changes(json.loads(recipe(method).model_dump_json()), tree)
    try:
        if changes is None or json.loads(override(recipe(method), changes).model_dump_json()) != tree:
            return ""
    except InputError:
        return ""
    words = ["attar", "distill", manifest.data.name, "--recipe", method, "--budget", budget]
    for key, value in changes.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--seed", str(manifest.seed)] * bool(manifest.seed)
    command = shlex.join([*words, "--out", f"{name}.attar.safetensors"])
    return command if len(command) <= LONGEST_COMMAND and command.isprintable() else ""


def _changes(usual: Any, actual: Any, prefix: str = "") -> dict[str, Any] | None:
    """Dotted keys whose values differ; None where the trees have different keys."""
    if not isinstance(usual, dict) or not isinstance(actual, dict):
        return {} if usual == actual else {prefix[:-1]: actual}
    if set(usual) != set(actual):
        return {prefix[:-1]: actual} if prefix else None
    changes: dict[str, Any] = {}
    for key in usual:
        changes |= _changes(usual[key], actual[key], f"{prefix}{key}.") or {}
    return changes
