"""Objectives by kind: one line each."""

from __future__ import annotations

from typing import TypeAlias

from attar.methods.objectives.alignment import AlignmentConfig
from attar.methods.objectives.characteristic import CharacteristicConfig
from attar.methods.objectives.discrepancy import DiscrepancyConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.inversion import InversionConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig

PartConfig: TypeAlias = (
    FeaturesConfig
    | GradientsConfig
    | TrajectoriesConfig
    | AlignmentConfig
    | InversionConfig
    | DiscrepancyConfig
    | CharacteristicConfig
)  # fmt: skip
"""Objectives that match by themselves; each can be a part of a sum."""
