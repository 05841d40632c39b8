"""A recipe: a method as a composition, with every setting explicit."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from attar.codecs.registry import CodecConfig
from attar.config import Config
from attar.initialization import Initialization
from attar.labels import HardLabels, SoftLabels
from attar.networks.network import NetworkConfig
from attar.objectives.none import NoObjectiveConfig
from attar.objectives.registry import ObjectiveConfig, has_experts
from attar.parameterizations.codes import CodesConfig


class OptimizerConfig(Config):
    """Stochastic gradient descent on the synthetic items.

    Args:
        learning_rate: the rate, or the rate per item.
        learning_rate_unit: "per-item" multiplies by the items per class (LatentDD Eq. 10), "absolute" does not.
        momentum: in [0, 1).
        schedule: "constant", or "cosine": the rate falls to zero along half a cosine over the recipe's steps.
        average: decay per step of the exponential average of the items that becomes the result (FTD); 0 takes the
            items as they are after the last step.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(gt=0, le=1e30)
    learning_rate_unit: Literal["absolute", "per-item"] = "absolute"
    momentum: float = Field(default=0.5, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "constant"
    average: float = Field(default=0.0, ge=0, lt=1)

    def rate(self, items_per_class: int, progress: float = 0.0) -> float:
        """The learning rate for so many items of each class, when `progress` of the steps (0 to 1) are done."""
        rate = self.learning_rate * (items_per_class if self.learning_rate_unit == "per-item" else 1)
        return rate * (1 + math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else rate


class Expected(Config):
    """A published figure to hold a recipe against.

    Args:
        data: data set and resolution.
        budget: e.g. "1ipc".
        accuracy: percent, as published.
        source: paper and table.
    """

    data: str
    budget: str
    accuracy: float = Field(ge=0, le=100)
    source: str


class Recipe(Config):
    """init x parameterization x objective x labels, with the codec between images and items.

    Args:
        name: as in the registry.
        title: one line for people.
        codec: images <-> codes.
        initialization: which real items the synthetic ones start from.
        parameterization: what is stored.
        objective: what is matched, or none.
        labels: what items are said to be.
        optimizer: how items are updated; None without an objective.
        steps: outer iterations; 0 without an objective.
        evaluation_network: the network that the paper's scores are for.
        image_size: the side in pixels that the settings are for, or None for any.
        budget: the budget used where none is given.
        citations: keys of `attar cite`.
        expected: published figures.
    """

    name: str
    title: str
    codec: CodecConfig
    initialization: Initialization = "random"
    parameterization: CodesConfig = CodesConfig()
    objective: ObjectiveConfig = NoObjectiveConfig()
    labels: HardLabels | SoftLabels = Field(default=HardLabels(), discriminator="kind")
    optimizer: OptimizerConfig | None = None
    steps: int = Field(default=0, ge=0)
    evaluation_network: NetworkConfig = NetworkConfig()
    image_size: int | None = Field(default=None, ge=1)
    budget: str = "1ipc"
    citations: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()

    @model_validator(mode="after")
    def _composition(self) -> Recipe:
        if isinstance(self.objective, NoObjectiveConfig):
            if isinstance(self.labels, SoftLabels):
                raise ValueError("without an objective labels are not learned; set labels.kind to hard")
            if self.steps or self.optimizer:
                raise ValueError("without an objective nothing is trained; set steps to 0 and optimizer to null")
            return self
        if self.steps == 0 or self.optimizer is None:
            raise ValueError(f"objective {self.objective.kind!r} needs an optimizer and steps of at least 1")
        if isinstance(self.labels, SoftLabels) and self.labels.initial == "expert" and not has_experts(self.objective):
            raise ValueError("labels.initial=expert needs an objective with experts; set it to class")
        if self.objective.augmentation is not None and self.codec.kind not in ("pixels", "pca", "dct"):
            raise ValueError(
                f"the codes of {self.codec.kind!r} do not follow augmentation (DSA); "
                "set objective.augmentation=null, or use codec pixels, pca or dct"
            )
        return self
