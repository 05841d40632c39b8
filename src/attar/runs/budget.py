"""How large a distilled set may be: images per class, items per class, or bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from attar.base.errors import InputError

UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


@dataclass(frozen=True)
class Budget:
    """A size: `amount` of "ipc" (images per class), "lpc" (items per class) or "bytes" (of the whole file)."""

    amount: int
    unit: Literal["ipc", "lpc", "bytes"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "10ipc", "120lpc" or "5MB" (kB, MB, GB are powers of 1000; KiB, MiB, GiB of 1024).

        Raises:
            InputError: anything else, or an amount of zero.
        """
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*", str(text))
        unit = match[2].lower() if match else ""
        if not match or unit not in {"ipc", "lpc", *UNITS}:
            raise InputError(
                f"budget {str(text)!r} is not understood; give images per class (10ipc), items per class (120lpc) "
                "or the file's size (500kB, 5MB)"
            )
        amount = float(match[1]) * UNITS.get(unit, 1)
        if amount < 1 or (unit in ("ipc", "lpc") and amount != int(amount)):
            raise InputError(f"budget {str(text)!r} must be a whole number, at least 1")
        return cls(int(amount), unit if unit in ("ipc", "lpc") else "bytes")  # type: ignore[arg-type]


def num_bytes(text: str, what: str) -> int:
    """Bytes of "8GB", "500kB". Raises InputError, which says `what` it is, for anything else."""
    try:
        parsed = Budget.parse(text)
    except InputError:
        parsed = None
    if parsed is None or parsed.unit != "bytes":
        raise InputError(f"{what} {text!r} is not understood; give e.g. 8GB or 500MB")
    return parsed.amount


def largest_count(num_bytes: Callable[[int], int], limit: int, at_most: int) -> int:
    """The largest count in 1..at_most with num_bytes(count) <= limit, by bisection; 0 where there is none.

    Args:
        num_bytes: grows with the count.
        limit: bytes.
        at_most: at least 1.
    """
    low, high = 0, at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if num_bytes(middle) <= limit else (low, middle)
    return low
