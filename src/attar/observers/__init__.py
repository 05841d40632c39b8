"""Networks trained on the real data, which score, align and label what is distilled."""

from __future__ import annotations

from attar.observers.cache import cached_observer
from attar.observers.checking import check_observer
from attar.observers.config import ObserverConfig
from attar.observers.observer import Observer
from attar.observers.training import observer_for

__all__ = ["Observer", "ObserverConfig", "cached_observer", "check_observer", "observer_for"]
