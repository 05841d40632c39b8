"""Where computation happens."""

from __future__ import annotations

import torch

from attar.base.errors import InputError


def resolve_device(device: str) -> torch.device:
    """The device called `device`; "auto" is CUDA where there is one. Raises InputError for one that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; allowed are auto, cpu, cuda, cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for and no CUDA device is here; use --device cpu")
    return chosen
