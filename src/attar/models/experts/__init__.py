"""Networks trained on the real items, whose way trajectory matching lets a student follow."""

from __future__ import annotations

from attar.models.experts.buffer import ExpertBuffer
from attar.models.experts.training import train_experts

__all__ = ["ExpertBuffer", "train_experts"]
