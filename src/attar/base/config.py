"""The base of every configuration: frozen, strict, and helpful about names it does not know."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from attar.base.errors import InputError, unknown

ConfigType = TypeVar("ConfigType", bound="Config")


class Config(BaseModel):
    """A frozen, strict pydantic model: unknown keys are refused, text is never taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def parse_config(model: type[ConfigType], text: str, what: str) -> ConfigType:
    """`model` from JSON text. Raises InputError: one line that names the first key at fault and what it received."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{what}: {_first_fault(error)}") from None


def override(config: ConfigType, assignments: dict[str, Any]) -> ConfigType:
    """A copy of `config` with dotted keys replaced, e.g. {"objective.network.width": 64}.

    Where a `kind` is among them, settings of the new kind may be given beside it; of the old kind's, those that the
    new one has not are left out.

    Raises:
        InputError: a key that does not exist (names the nearest) or a value that the key does not allow.
    """
    tree = json.loads(config.model_dump_json())
    of_new_kind = {key.removesuffix(".kind") for key in assignments if key.endswith(".kind")}
    for key, value in assignments.items():
        branch = tree
        *parents, leaf = key.split(".")
        for part in parents:
            branch = _below(branch, part)
            if branch is None:
                raise unknown("setting", key, _dotted_keys(tree))
        if leaf not in branch and ".".join(parents) not in of_new_kind:
            raise unknown("setting", key, _dotted_keys(tree))
        branch[leaf] = value
    _leave_out_old_settings(type(config), tree, of_new_kind, assignments)
    return parse_config(type(config), json.dumps(tree), "--set")


def _leave_out_old_settings(
    model: type[Config], tree: dict[str, Any], changed: set[str], given: Container[str]
) -> None:
    """Take out of `tree` what its new kinds do not know and nobody gave."""
    try:
        model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            if fault["type"] != "extra_forbidden":
                continue
            *place, leaf = (str(part) for part in fault["loc"])
            branch, path = tree, ""
            for part in place:
                below = _below(branch, part)  # a part may be the kind, which is no key
                if below is not None:
                    branch, path = below, f"{path}.{part}" if path else part
            if path in changed and f"{path}.{leaf}" not in given:
                branch.pop(leaf, None)


def _below(branch: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What a name leads to; a number leads into a list."""
    value = branch.get(name)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, dict) else None


def _dotted_keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        keys += _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    received = f", received {fault['input']!r}"[:120] if place and fault["type"] != "missing" else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{received}{more}" if place else message + more
