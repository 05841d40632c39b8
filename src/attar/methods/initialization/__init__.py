"""Which real items the synthetic ones start from; the same choices serve as coreset baselines."""

from attar.methods.initialization.scoring import Choice, KeySamplesConfig, key_samples
from attar.methods.initialization.selection import Initialization, initial_indices
from attar.methods.initialization.sources import Sources

__all__ = ["Choice", "Initialization", "KeySamplesConfig", "Sources", "initial_indices", "key_samples"]
