"""Objectives by kind: one line each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from attar.methods.objectives.alignment import Alignment
from attar.methods.objectives.discrepancy import Discrepancy, DiscrepancyConfig
from attar.methods.objectives.features import Features
from attar.methods.objectives.gradients import Gradients
from attar.methods.objectives.inversion import Inversion
from attar.methods.objectives.objective import Context, NoObjectiveConfig, Objective
from attar.methods.objectives.sums import PartConfig, Sum, SumConfig
from attar.methods.objectives.trajectories import Trajectories, TrajectoriesConfig

MatchingConfig = PartConfig | SumConfig

ObjectiveConfig = Annotated[NoObjectiveConfig | MatchingConfig, Field(discriminator="kind")]

OBJECTIVES: dict[str, Any] = {
    "features": Features,
    "gradients": Gradients,
    "trajectories": Trajectories,
    "alignment": Alignment,
    "inversion": Inversion,
    "discrepancy": Discrepancy,
    "sum": Sum,
}


def parts_of(config: NoObjectiveConfig | MatchingConfig) -> tuple[PartConfig, ...]:
    """The objectives that a config stands for: those of a sum, itself, or none."""
    if isinstance(config, SumConfig):
        return config.parts
    return () if isinstance(config, NoObjectiveConfig) else (config,)


def has_experts(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective reads trajectories of experts."""
    return any(OBJECTIVES[part.kind].needs_experts for part in parts_of(config))


def has_observer(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective looks at images through an observer."""
    return any(OBJECTIVES[part.kind].needs_observer for part in parts_of(config))


def has_originals(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective reads the real image behind each item."""
    return any(OBJECTIVES[part.kind].needs_originals for part in parts_of(config))


def expert_part(config: NoObjectiveConfig | MatchingConfig) -> TrajectoriesConfig | DiscrepancyConfig | None:
    """The settings by which the objective's experts are trained; None where it reads none."""
    if isinstance(config, SumConfig):
        return config.expert_part
    return config if isinstance(config, TrajectoriesConfig | DiscrepancyConfig) else None


def learned_names(config: NoObjectiveConfig | MatchingConfig) -> tuple[str, ...]:
    """The numbers that `Objective.learned` will give."""
    return tuple(name for part in parts_of(config) for name in OBJECTIVES[part.kind].learned_names)


def build_objective(config: NoObjectiveConfig | MatchingConfig, context: Context) -> Objective:
    """The objective of a config; see the class of its kind. "none" has none to build."""
    if isinstance(config, NoObjectiveConfig):
        raise ValueError("a recipe without an objective has nothing to build")
    objective: Objective = OBJECTIVES[config.kind](config, context)
    return objective
