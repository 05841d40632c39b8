"""Where independent jobs run: in this process, or on a cluster."""

from attar.engines.engine import Engine, Local, Work

__all__ = ["Engine", "Local", "Work"]
