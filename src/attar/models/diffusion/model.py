"""The interface of a frozen diffusion model, and attar's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.shapes import Float, Int64
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.frozen import NumClasses
from attar.models.codecs.restoring import fill_network, network_tensors
from attar.models.diffusion.schedule import ScheduleConfig, alpha_bars
from attar.models.networks.denoiser import Denoiser, DenoiserConfig, denoiser_shell


class DiffusionModel(nn.Module, ABC):
    """Predicts the noise in a code from its level and a conditioning vector; frozen, in evaluation mode.

    Attributes:
        kind: its name in specs.
        code_shape: (c, h, w).
        num_classes: K of the model, without the null class.
        alpha_bars: float64 [S], on the CPU.
        null: float32 [d], the conditioning of no class.
    """

    kind: ClassVar[str]
    code_shape: tuple[int, int, int]
    num_classes: int
    alpha_bars: Tensor
    null: Tensor

    @property
    def conditioning_size(self) -> int:
        """The number d of values in a conditioning vector."""
        return len(self.null)

    @abstractmethod
    def predict(
        self, codes: Float[Tensor, "batch c h w"], level: int, conditioning: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch c h w"]:
        """The noise eps(z, s, c), differentiable with respect to codes and conditioning."""

    @abstractmethod
    def embed(self, classes: Int64[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """The conditioning of classes of the model."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able: with `stored_tensors` or the weights of `external`, all that rebuilds it. Has "kind"."""

    def stored_tensors(self) -> dict[str, Tensor]:
        """What a file embeds of the model, float32; empty where the weights are outside."""
        return {}

    def external(self) -> ExternalWeights | None:
        """Weights that are needed beside the file, or None."""
        return None


class OwnSpec(Config):
    """A model of attar's own: its sizes and schedule; its values are tensors."""

    kind: Literal["own"] = "own"
    denoiser: DenoiserConfig
    schedule: ScheduleConfig
    num_classes: NumClasses


class OwnModel(DiffusionModel):
    """A `Denoiser` with the schedule it was trained with; its weights belong into the file.

    Args:
        denoiser: taken over and frozen.
        schedule: of its training.
    """

    kind = "own"

    def __init__(self, denoiser: Denoiser, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.schedule = schedule
        self.code_shape, self.num_classes = denoiser.code_shape, denoiser.num_classes
        self.alpha_bars = alpha_bars(schedule)

    @property
    def null(self) -> Tensor:  # type: ignore[override]
        return self.denoiser.classes.weight[self.num_classes]

    def predict(
        self, codes: Float[Tensor, "batch c h w"], level: int, conditioning: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch c h w"]:
        levels = torch.full((len(codes),), level, dtype=torch.int64, device=codes.device)
        noise: Tensor = self.denoiser(codes, levels, conditioning)
        return noise

    def embed(self, classes: Int64[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        return self.denoiser.classes.weight[classes.to(self.denoiser.classes.weight.device)]

    def spec(self) -> dict[str, Any]:
        spec = OwnSpec(denoiser=self.denoiser.config, schedule=self.schedule, num_classes=self.num_classes)
        return spec.model_dump(mode="json")

    def stored_tensors(self) -> dict[str, Tensor]:
        return network_tensors(self.denoiser)

    @classmethod
    def restore(cls, spec: OwnSpec, code_shape: tuple[int, int, int], tensors: dict[str, Tensor]) -> OwnModel:
        """Rebuild from `spec` and `stored_tensors`. Raises InputError where they do not fit one another."""
        denoiser = fill_network(denoiser_shell(spec.denoiser, code_shape, spec.num_classes), tensors)
        return cls(denoiser, spec.schedule)
