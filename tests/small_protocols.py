"""A protocol of a few steps, for tests that train networks."""

from __future__ import annotations

from typing import Any

from attar.evaluation.protocol import Protocol
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import TrainingConfig


def tiny(epochs: int = 2, width: int = 8, **changes: Any) -> Protocol:
    """Two seeds of a ConvNet of one block, batches of 64 at a rate of 0.05, without augmentation."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "version": 1,
        "description": "for tests",
        "comparable": False,
        "seeds": 2,
        "networks": (NetworkConfig(depth=1, width=width),),
        "training": TrainingConfig(epochs=epochs, batch_size=64, learning_rate=0.05),
    }
    return Protocol(**(settings | changes))
