"""Interpolation of two vectors, value by value, with Python's own floats."""

from __future__ import annotations

import math
from collections.abc import Sequence


def between(first: Sequence[float], last: Sequence[float], share: float, kind: str) -> list[float]:
    """(1 - t) a + t b, or Shoemake's (sin((1 - t) w) a + sin(t w) b) / sin w with w = arccos(a b / |a| |b|)."""
    near, far = 1 - share, share
    if kind == "spherical":
        product = sum(a * b for a, b in zip(first, last, strict=True))
        lengths = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in last))
        angle = math.acos(product / lengths)
        near, far = math.sin(near * angle) / math.sin(angle), math.sin(far * angle) / math.sin(angle)
    return [near * a + far * b for a, b in zip(first, last, strict=True)]
