"""Which real items the synthetic ones start from; the same choices serve as coreset baselines."""

from attar.initialization.choice import Choice
from attar.initialization.scoring import KeySamplesConfig, key_samples
from attar.initialization.selection import Initialization, initial_indices
from attar.initialization.sources import Sources

__all__ = ["Choice", "Initialization", "KeySamplesConfig", "Sources", "initial_indices", "key_samples"]
