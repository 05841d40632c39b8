"""How experts are trained, and how they are read."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.data.augmentation import DsaConfig
from attar.models.networks.network import NetworkConfig


class ExpertsConfig(Config):
    """How experts are trained on the real items.

    Args:
        count: networks.
        epochs: of each; parameters are stored after every one, and before the first.
        batch_size: items of a step.
        learning_rate, momentum, weight_decay: of SGD; the rate is constant.
        flat_radius: rho of sharpness-aware minimisation (FTD's flat trajectories); 0 is plain SGD.
        storage: of the trajectories.
        seed: expert i depends on (seed, i) and the settings above alone.
    """

    count: int = Field(default=100, ge=1)
    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    flat_radius: float = Field(default=0.0, ge=0)
    storage: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


@runtime_checkable
class Experts(Protocol):
    """Trajectories of networks trained on the real items, as an objective reads them.

    `num_experts` may grow while a run goes on; parameters are known after 0..`num_epochs` epochs.
    """

    @property
    def num_experts(self) -> int: ...

    @property
    def num_epochs(self) -> int: ...

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """float32 [P], on the CPU: the network's parameters, each flattened, in the order of `named_parameters()`."""


@runtime_checkable
class ReadsExperts(Protocol):
    """Settings of whatever reads experts: which network they are, how they are trained, and on what views."""

    @property
    def network(self) -> NetworkConfig: ...

    @property
    def experts(self) -> ExpertsConfig: ...

    @property
    def augmentation(self) -> DsaConfig | None: ...
