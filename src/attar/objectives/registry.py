"""Objectives by kind: one line each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from attar.objectives.alignment import Alignment, AlignmentConfig
from attar.objectives.features import Features, FeaturesConfig
from attar.objectives.gradients import Gradients, GradientsConfig
from attar.objectives.inversion import Inversion, InversionConfig
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.objective import Context, Objective
from attar.objectives.trajectories import Trajectories, TrajectoriesConfig

MatchingConfig = FeaturesConfig | GradientsConfig | TrajectoriesConfig | AlignmentConfig | InversionConfig

ObjectiveConfig = Annotated[NoObjectiveConfig | MatchingConfig, Field(discriminator="kind")]

OBJECTIVES: dict[str, Any] = {
    "features": Features,
    "gradients": Gradients,
    "trajectories": Trajectories,
    "alignment": Alignment,
    "inversion": Inversion,
}


def has_experts(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective reads trajectories of experts."""
    return not isinstance(config, NoObjectiveConfig) and OBJECTIVES[config.kind].needs_experts


def has_observer(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective looks at images through an observer."""
    return not isinstance(config, NoObjectiveConfig) and OBJECTIVES[config.kind].needs_observer


def has_originals(config: NoObjectiveConfig | MatchingConfig) -> bool:
    """Whether the objective reads the real image behind each item."""
    return not isinstance(config, NoObjectiveConfig) and OBJECTIVES[config.kind].needs_originals


def learned_names(config: NoObjectiveConfig | MatchingConfig) -> tuple[str, ...]:
    """The numbers that `Objective.learned` will give."""
    return () if isinstance(config, NoObjectiveConfig) else OBJECTIVES[config.kind].learned_names


def build_objective(config: NoObjectiveConfig | MatchingConfig, context: Context) -> Objective:
    """The objective of a config; see the class of its kind. "none" has none to build."""
    if isinstance(config, NoObjectiveConfig):
        raise ValueError("a recipe without an objective has nothing to build")
    objective: Objective = OBJECTIVES[config.kind](config, context)
    return objective
