"""Soft labels: each item has a probability for every class, learned with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.methods.composition import Composition, Unmet
from attar.methods.labels.hard import LabelsConfig
from attar.models.networks.network import Network


class SoftLabels(LabelsConfig):
    """One probability vector per item: softmax of stored logits.

    Args:
        initial: logits at the start: those of an "expert" for the initial item (DATM, TESLA's on ImageNet), or
            `initial_logit` at the item's class and 0 elsewhere ("class").
        initial_logit: see `initial`.
        computed: when an expert gives them: before the first step ("start"), so that items are matched with them, or
            after the last ("end"), of what the items have become: of priors, their means (D3).
        learning_rate: of the logits; 0 keeps them.
        momentum: of the logits' SGD.
        storage: of the logits in the file.

    Raises:
        InputError: labels at the end that are not an expert's, or that would be learned.

    Source: DATM and TESLA for the start; D3 appendix E.3 for the end.
    """

    kind: Literal["soft"] = "soft"
    initial: Literal["expert", "class"] = "expert"
    initial_logit: float = Field(default=5.0, gt=0)
    computed: Literal["start", "end"] = "start"
    learning_rate: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    storage: Literal["float16", "float32"] = "float16"

    @property
    def item_storage(self) -> Literal["float16", "float32"]:
        return self.storage

    @property
    def taken_at(self) -> Literal["start", "end"]:
        return self.computed

    def parameter_group(self, logits: Tensor) -> dict[str, Any] | None:
        if not self.learning_rate:
            return None
        return {"params": [logits], "lr": self.learning_rate, "momentum": self.momentum}

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        if not recipe.objective.components:
            yield Unmet("steps", "without an objective labels are not learned; set labels.kind to hard")
        elif self.initial == "expert" and "experts" not in recipe.objective.needs:
            yield Unmet("experts", "labels.initial=expert needs an objective with experts; set it to class")
        if recipe.parameterization.blank_start and (self.initial, self.computed) == ("expert", "start"):
            text = f"an expert has nothing to say of {recipe.parameterization.kind} before the first step"
            yield Unmet("start", f"{text}; set labels.computed=end")

    @model_validator(mode="after")
    def _at_the_end_an_expert_alone(self) -> SoftLabels:
        if self.computed == "end" and self.initial != "expert":
            raise InputError("labels computed at the end are an expert's; set labels.initial=expert")
        if self.computed == "end" and self.learning_rate:
            raise InputError(
                "labels computed at the end are not learned; set labels.learning_rate=0, or labels.computed=start"
            )
        return self


def class_logits(labels: Int64[Tensor, " items"], num_classes: int, logit: float) -> Float[Tensor, "items classes"]:
    """`logit` at each item's class and 0 elsewhere."""
    return logit * torch.nn.functional.one_hot(labels, num_classes).float()


@torch.no_grad()
def network_logits(
    network: Network, parameters: Float[Tensor, " values"], items: Float[Tensor, "items c h w"]
) -> Float[Tensor, "items classes"]:
    """What a network with these flat parameters (in the order of `named_parameters()`) says of items."""
    torch.nn.utils.vector_to_parameters(parameters, network.parameters())
    return torch.cat([network.eval()(part) for part in items.split(256)])
