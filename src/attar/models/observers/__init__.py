"""Networks trained on the real data, which score, align and label what is distilled."""

from __future__ import annotations

from attar.models.observers.cache import cached_observer
from attar.models.observers.checking import check_observer
from attar.models.observers.config import ObserverConfig
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for

__all__ = ["Observer", "ObserverConfig", "cached_observer", "check_observer", "observer_for"]
