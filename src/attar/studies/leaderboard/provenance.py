"""The command that distilled a set, read from its manifest."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from attar.base.config import override
from attar.base.errors import InputError
from attar.methods.recipes import REGISTRY, recipe

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet


LONGEST_COMMAND = 4000


def distilling_command(distilled: DistilledSet, name: str) -> str:
    """`attar distill ...` that gives such a set, or "" where the manifest does not tell.

    The settings that differ from the recipe's are named, and the recipe with them is compared with the manifest's, so
    that the command is not a guess. Sets that were merged, or whose classes have different numbers of items, have none.

    Args:
        distilled: the set.
        name: what its file is called, without endings.
    """
    tree, manifest = dict(distilled.manifest.recipe), distilled.manifest
    known = str(tree.get("name", ""))
    items = {count // _tiles(distilled) for count in distilled.num_per_class}
    if known not in REGISTRY or len(manifest.shards) != 1 or len(items) != 1 or manifest.conversions:
        return ""
    usual = json.loads(recipe(known).model_dump_json())
    changes = _changes(usual, tree)
    try:
        if changes is None or json.loads(override(recipe(known), changes).model_dump_json()) != tree:
            return ""
    except InputError:
        return ""
    words = ["attar", "distill", manifest.data.name, "--recipe", known, "--budget", f"{items.pop()}lpc"]
    for key, value in changes.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--seed", str(manifest.seed)] * bool(manifest.seed)
    command = shlex.join([*words, "--out", f"{name}.attar.safetensors"])
    return command if len(command) <= LONGEST_COMMAND and command.isprintable() else ""


def _tiles(distilled: DistilledSet) -> int:
    """Images of one canvas; 1 where items are no mosaics."""
    return int(distilled.manifest.shards[0].parameterization.get("grid", 1)) ** 2


def _changes(usual: Any, found: Any, prefix: str = "") -> dict[str, Any] | None:
    """Dotted keys whose values differ; None where the trees have different keys."""
    if not isinstance(usual, dict) or not isinstance(found, dict):
        return {} if usual == found else {prefix[:-1]: found}
    if set(usual) != set(found):
        return {prefix[:-1]: found} if prefix else None
    changes: dict[str, Any] = {}
    for key in usual:
        below = _changes(usual[key], found[key], f"{prefix}{key}.")
        changes |= below or {}
    return changes
