"""Where independent jobs run: in this process, or on a cluster."""

from __future__ import annotations

from typing import Any

from attar.base.engines.engine import Engine, Local, Results, Work
from attar.base.errors import InputError, unknown

__all__ = ["Engine", "Local", "Results", "Work", "engine_named"]

ENGINES = ("local", "ray")


def engine_named(name: str, **options: Any) -> Engine:
    """The engine of that name.

    Args:
        name: "local" or "ray".
        **options: of the engine: see `RayEngine`; those that are None count as not given, and "local" has none.

    Raises:
        InputError: an unknown name, or an option that the engine does not have.

    Example:
        >>> type(engine_named("local")).__name__
        'Local'
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    options = {option: value for option, value in options.items() if value is not None}
    if name == "ray":
        from attar.base.engines.ray import RayEngine

        return RayEngine(**options)
    if options:
        raise InputError(f"engine 'local' has no {', '.join(options)}; leave it out, or take engine 'ray'")
    return Local()
