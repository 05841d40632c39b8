"""Random numbers come from generators derived from (seed, purpose); nothing touches the global state."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch.Generator on `device`, the same for the same seed and purpose, unrelated for different ones.

    Because a step's generator depends on its number only, a resumed run draws what the unbroken run would have drawn.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, "init")) for _ in range(2))
        >>> bool(a == b)
        True
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator(device=device).manual_seed(number)
