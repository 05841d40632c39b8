"""The BibTeX of what a file or a recipe rests on."""

from __future__ import annotations

from pathlib import Path

from attar.base.errors import InputError, unknown
from attar.methods.citations import ENTRIES


def cite(what: Path | str) -> str:
    """BibTeX of what a distilled file or a recipe rests on, one entry after the other.

    Args:
        what: a distilled file, or the name of a recipe.

    Returns:
        The entries; empty where the recipe rests on no publication.

    Raises:
        InputError: neither a file nor a recipe, or a file that is not a distilled set.

    Example:
        >>> print(cite("herding").splitlines()[0])
        @inproceedings{welling2009herding,
    """
    keys = _keys_of_file(Path(what)) if Path(what).is_file() else _keys_of_recipe(str(what))
    missing = [key for key in keys if key not in ENTRIES]
    if missing:
        raise InputError(f"{what} cites {missing[0]!r}, which this version of attar does not know; update attar")
    return "\n\n".join(ENTRIES[key] for key in keys)


def _keys_of_recipe(name: str) -> tuple[str, ...]:
    from attar.methods.recipes import REGISTRY, recipe

    if name not in REGISTRY:
        if "/" in name or name.endswith(".safetensors"):
            raise InputError(f"there is no file {name}; give a distilled file or the name of a recipe")
        raise unknown("recipe", name, REGISTRY)
    return recipe(name).citations


def _keys_of_file(path: Path) -> tuple[str, ...]:
    from attar.sets.distilled import DistilledSet

    return tuple(DistilledSet.load(path).manifest.citations)
