"""Random numbers come from generators derived from (seed, purpose); nothing touches the global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from attar.base.shapes import Float


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch.Generator on `device`, the same for the same seed and purpose, unrelated for different ones.

    Because a step's generator depends on its number only, a resumed run draws what the unbroken run would have drawn.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, "init")) for _ in range(2))
        >>> bool(a == b)
        True
    """
    return torch.Generator(device=device).manual_seed(_key(seed, *purpose) >> 1)


class Counter:
    """Uniform numbers by place: what a file's readers draw must be what its writer drew, years and versions apart.

        u[i] = mix(key + G (2^32 j + i + 1)) / 2^64

    for element i of call j, with G = 2^64 over the golden ratio. Element i does not depend on how many are drawn with
    it.

    Args:
        seed: with `purpose`, the source of the key, as of `generator`.
        purpose: what the numbers are for.

    Example:
        >>> few, many = Counter(0, "crops").uniform(2), Counter(0, "crops").uniform(5)
        >>> bool((few == many[:2]).all())
        True

    Source: Steele, Lea & Flood 2014 (SplitMix), whose mixing function it is.
    """

    def __init__(self, seed: int, *purpose: str | int) -> None:
        self._key = np.uint64(_key(seed, *purpose))
        self._calls = 0

    def uniform(self, count: int) -> Float[Tensor, " count"]:
        """float64 [count] in [0, 1), multiples of 2^-53; every call gives new ones."""
        places = np.arange(count, dtype=np.uint64) + (np.uint64(self._calls) << np.uint64(32))
        self._calls += 1
        with np.errstate(over="ignore"):
            mixed = self._key + (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _key(seed: int, *purpose: str | int) -> int:
    """64 bits of the hash of seed and purpose."""
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
