"""Where independent jobs run: in this process, or on a cluster."""

from attar.engines.engine import Engine, Local, Results, Work
from attar.engines.registry import engine_named

__all__ = ["Engine", "Local", "Results", "Work", "engine_named"]
