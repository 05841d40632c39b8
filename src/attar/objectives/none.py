"""No objective: the initial items are the result (coresets, and LatentDD's "Initial" rows)."""

from __future__ import annotations

from typing import Literal

from attar.config import Config


class NoObjectiveConfig(Config):
    """Nothing is matched and nothing is trained; such a recipe has no steps."""

    kind: Literal["none"] = "none"
