"""Objectives by kind: one line each."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from attar.data.augmentation import Augmentation
from attar.objectives.features import Features, FeaturesConfig
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.objective import Objective

ObjectiveConfig = Annotated[NoObjectiveConfig | FeaturesConfig, Field(discriminator="kind")]

OBJECTIVES: dict[str, type[Features]] = {"features": Features}


def build_objective(
    config: NoObjectiveConfig | FeaturesConfig,
    item_shape: tuple[int, int, int],
    num_classes: int,
    device: torch.device | str,
    num_steps: int,
    augmentation: Augmentation | None = None,
) -> Objective:
    """The objective of a config; see the class of its kind for the arguments. "none" has none to build."""
    if isinstance(config, NoObjectiveConfig):
        raise ValueError("a recipe without an objective has nothing to build")
    return OBJECTIVES[config.kind](config, item_shape, num_classes, device, num_steps, augmentation)
