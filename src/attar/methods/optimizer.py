"""How what an outer step learns is updated."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.base.errors import InputError

USUAL_BETAS = (0.9, 0.999)

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """How the synthetic items are updated; soft labels and an objective's own numbers are updated by SGD always.

    Args:
        kind: "sgd", "adam", or "adamw", whose weight decay is not scaled by the gradient's moments.
        learning_rate: the rate, or the rate per item.
        learning_rate_unit: "per-item" multiplies by the items per class (LatentDD Eq. 10), "absolute" does not.
        momentum: of sgd, in [0, 1); 0 for the others, which have betas.
        betas: decays of adam's and adamw's averages of the gradient and of its square, in [0, 1); None for sgd.
        weight_decay: towards zero in the items' own space.
        schedule: "constant", or "cosine": the rate falls to zero along half a cosine over the recipe's steps.
        average: decay per step of the exponential average of the items that becomes the result (FTD); 0 takes the
            items as they are after the last step.
        valid_range: after each update the items are cut to what decodes to [0, 1]; possible with codec `pixels`.

    Raises:
        InputError: a setting that the kind would ignore.
    """

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0, le=1e30)
    learning_rate_unit: Literal["absolute", "per-item"] = "absolute"
    momentum: float = Field(default=0.5, ge=0, lt=1)
    betas: tuple[Decay, Decay] | None = None
    weight_decay: float = Field(default=0.0, ge=0, le=1e30)
    schedule: Literal["constant", "cosine"] = "constant"
    average: float = Field(default=0.0, ge=0, lt=1)
    valid_range: bool = False

    @model_validator(mode="before")
    @classmethod
    def _usual_for_kind(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        if settings.get("kind") in ("adam", "adamw"):
            usual = {"momentum": 0.0, "betas": USUAL_BETAS}
            settings = usual | {name: value for name, value in settings.items() if (name, value) != ("betas", None)}
        if isinstance(settings.get("betas"), list):  # as JSON has it
            settings = {**settings, "betas": tuple(settings["betas"])}
        return settings

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> OptimizerConfig:
        if self.kind == "sgd" and self.betas is not None:
            raise InputError("sgd has no betas; set optimizer.betas=null, or take optimizer.kind=adam")
        if self.kind != "sgd" and self.momentum:
            raise InputError(f"{self.kind} has betas and no momentum; set optimizer.momentum=0")
        return self

    def rate(self, items_per_class: int, progress: float = 0.0) -> float:
        """The learning rate for so many items of each class, when `progress` of the steps (0 to 1) are done."""
        rate = self.learning_rate * (items_per_class if self.learning_rate_unit == "per-item" else 1)
        return rate * (1 + math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else rate
