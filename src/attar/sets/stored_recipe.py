"""How a file holds its recipe: by name, by what differs from the one of that name, and by a digest of the whole."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic_core import to_jsonable_python

from attar.base.config import Config
from attar.base.files import canonical_json
from attar.methods.recipes.recipe import Recipe
from attar.methods.recipes.registry import REGISTRY

DIGEST_BYTES = 8
"""Enough to notice a recipe that was changed; the file's checksum guards what the file holds."""

Tree = dict[str, Any]


def stored_recipe(recipe: Mapping[str, Any]) -> Tree:
    """What a file holds of a resolved recipe: {"name", "digest", "settings"}, with which `read_recipe` gives it back.

    The settings are dotted keys, as `--set` takes them, of what differs from the registry's recipe of that name. Those
    of a recipe without an entry there are what differs from the defaults of `Recipe`. What is no recipe of attar's,
    e.g. of a foreign set, is held as it is, and so is what an attar with another recipe of that name could not resolve.
    """
    tree = dict(recipe)
    if isinstance(tree.get("parts"), list):
        return tree | {"parts": [_of_part(part, stored_recipe) for part in tree["parts"]]}
    settings = None if "digest" in tree else _settings(tree)
    if settings is None:
        return tree
    stored: Tree = {"name": tree["name"], "digest": _digest(tree)} | ({"settings": settings} if settings else {})
    return stored if _resolved(stored) is not None else tree


def read_recipe(stored: Mapping[str, Any]) -> Tree:
    """The resolved recipe; `stored` itself, which has a "digest", where attar's recipe of that name is another now."""
    tree = dict(stored)
    if isinstance(tree.get("parts"), list):
        return tree | {"parts": [_of_part(part, read_recipe) for part in tree["parts"]]}
    if "digest" not in tree:
        return tree
    resolved = _resolved(tree)
    return tree if resolved is None else resolved


def is_unresolved(recipe: Mapping[str, Any]) -> bool:
    """Whether `read_recipe` could not resolve a recipe, because this attar has another one of that name, or none."""
    return "digest" in recipe


def unresolved_notes(recipe: Mapping[str, Any]) -> list[str]:
    """A line for people on each recipe, of a merged set's parts too, that is not known in full."""
    parts = recipe["parts"] if isinstance(recipe.get("parts"), list) else []
    recipes = [recipe, *(part.get("recipe") for part in parts if isinstance(part, dict))]
    return [
        f"attar's {str(tree.get('name'))[:80]!r} is not the one that made this set; known are its settings "
        f"{canonical_json(tree.get('settings', {}))}"
        for tree in recipes
        if isinstance(tree, dict) and is_unresolved(tree)
    ]


def recipe_hints(recipe: Mapping[str, Any]) -> Tree:
    """A recipe, or of an unresolved one what attar's recipe of that name would be with the same settings."""
    if not is_unresolved(recipe):
        return dict(recipe)
    return _with_settings(recipe) or {}


def _of_part(part: Any, change: Any) -> Any:
    """One part of a merged set; what is merged itself stays as it is."""
    if not isinstance(part, dict) or not isinstance(part.get("recipe"), dict) or "parts" in part["recipe"]:
        return part
    return part | {"recipe": change(part["recipe"])}


def _settings(tree: Tree) -> Tree | None:
    usual = _registered(tree.get("name"))
    if usual is not None:
        return _differences(usual, tree)
    fields = {name: value for name, value in tree.items() if name in Recipe.model_fields}
    try:
        recipe = Recipe.model_validate_json(canonical_json(fields))
    except ValueError:
        return None
    settings = {name: value for name, value in tree.items() if name not in fields} | _without_defaults(recipe)
    return {name: value for name, value in settings.items() if name != "name"}


def _resolved(stored: Tree) -> Tree | None:
    """The tree that a file's recipe stands for, if it has the file's digest."""
    tree = _with_settings(stored)
    return tree if tree is not None and _digest(tree) == stored["digest"] else None


def _with_settings(stored: Mapping[str, Any]) -> Tree | None:
    settings, usual = stored.get("settings", {}), _registered(stored.get("name"))
    if not isinstance(settings, dict):
        return None
    try:
        if usual is not None:
            return _applied(usual, settings)
        fields = {name: value for name, value in settings.items() if name in Recipe.model_fields}
        recipe = Recipe.model_validate_json(canonical_json(fields | {"name": stored.get("name")}))
        return settings | recipe.model_dump(mode="json")
    except (LookupError, TypeError, ValueError, RecursionError):  # the file may hold anything
        return None


def _differences(usual: Any, value: Any, place: str = "") -> Tree:
    """Dotted keys of what differs; a branch with other keys than the usual ones is one difference."""
    branches = isinstance(usual, dict) and isinstance(value, dict)
    if not branches or (place and usual.keys() != value.keys()):
        return {} if canonical_json(usual) == canonical_json(value) else {place: value}
    changes: Tree = {}
    for name, below in value.items():
        path = f"{place}.{name}" if place else name
        changes |= _differences(usual[name], below, path) if name in usual else {path: below}
    return changes


def _applied(usual: Tree, settings: Tree) -> Tree:
    tree: Tree = json.loads(canonical_json(usual))
    for place, value in settings.items():
        *parents, leaf = place.split(".")
        branch: Any = tree
        for name in parents:
            branch = branch[name]
        branch[leaf] = value
    return tree


def _without_defaults(config: Config) -> Tree:
    tree: Tree = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name == "kind" or value != field.default:
            tree[name] = _without_defaults(value) if isinstance(value, Config) else to_jsonable_python(value)
    return tree


@cache
def _usual(name: str) -> Tree:
    return REGISTRY[name]().model_dump(mode="json")


def _registered(name: Any) -> Tree | None:
    return _usual(name) if isinstance(name, str) and name in REGISTRY else None


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256(canonical_json(tree).encode()).digest()
    return base64.urlsafe_b64encode(digest[:DIGEST_BYTES]).decode().rstrip("=")
