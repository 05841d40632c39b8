"""Which real items the synthetic ones start from; the same choices serve as coreset baselines."""

from attar.initialization.selection import Initialization, initial_indices

__all__ = ["Initialization", "initial_indices"]
