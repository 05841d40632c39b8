"""The one loop that trains networks, and their test."""

from __future__ import annotations

from attar.models.training.acceleration import Acceleration, Precision, forward_function, resolve_acceleration
from attar.models.training.loop import FixedItems, Mode, TrainingConfig, TrainingItems, train_networks
from attar.models.training.testing import TestResult, test_network, test_networks

__all__ = [
    "Acceleration",
    "FixedItems",
    "Mode",
    "Precision",
    "TestResult",
    "TrainingConfig",
    "TrainingItems",
    "forward_function",
    "resolve_acceleration",
    "test_network",
    "test_networks",
    "train_networks",
]
