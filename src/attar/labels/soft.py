"""Soft labels: each item has a probability for every class, learned with it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.config import Config
from attar.networks.network import Network
from attar.shapes import Float, Int64


class SoftLabels(Config):
    """One probability vector per item: softmax of stored logits.

    Args:
        initial: logits at the start: those of an "expert" for the initial item (DATM, TESLA's on ImageNet), or
            `initial_logit` at the item's class and 0 elsewhere ("class").
        initial_logit: see `initial`.
        learning_rate: of the logits; 0 keeps them.
        momentum: of the logits' SGD.
        storage: of the logits in the file.
    """

    kind: Literal["soft"] = "soft"
    initial: Literal["expert", "class"] = "expert"
    initial_logit: float = Field(default=5.0, gt=0)
    learning_rate: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    storage: Literal["float16", "float32"] = "float16"


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
