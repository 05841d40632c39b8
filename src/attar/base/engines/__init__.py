"""Where independent jobs run: in this process, or on a cluster."""

from attar.base.engines.engine import Engine, Local, Results, Work
from attar.base.engines.registry import engine_named

__all__ = ["Engine", "Local", "Results", "Work", "engine_named"]
