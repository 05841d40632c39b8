"""The contract of an objective: what of the synthetic items is made to agree with the real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from attar.base.config import Config
from attar.data.augmentation import Augmentation
from attar.models.codecs.codec import Codec
from attar.models.experts.config import Experts
from attar.models.real_items import RealItems
from attar.models.training.acceleration import Precision


@runtime_checkable
class Synthetic(Protocol):
    """What an objective may know of a Parameterization: call it with item indices, read its labels.

    Attributes:
        labels: int64 [M], class-major.
        soft_labels: float32 [M, K], logits of learned soft labels (their softmax is the label), or None.
    """

    labels: Tensor
    soft_labels: Tensor | None

    def __call__(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class ObserverLike(Protocol):
    """A network trained on the real items, as an objective sees it: differentiable with respect to images, and frozen.

    Attributes:
        preprocess: images to its network inputs.
    """

    @property
    def preprocess(self) -> Codec: ...

    def logits(self, images: Tensor) -> Tensor:
        """[B, K], of images [B, C, H, W] in [0, 1]."""

    def maps(self, images: Tensor, layer: int) -> Tensor:
        """[B, c, h, w], what block `layer` gives before its pooling; negative numbers count from the end."""

    def batch_statistics(self) -> Sequence[nn.BatchNorm2d]:
        """Its batch norms, the first layer's first."""

    def fused(self, num_images: int, precision: Precision) -> MapsOfImages:
        """One that answers the same up to rounding, made fast for so many images."""


class MapsOfImages(Protocol):
    """What an objective asks of an observer whose statistics do not matter."""

    @property
    def preprocess(self) -> Codec: ...

    def logits(self, images: Tensor) -> Tensor: ...

    def maps(self, images: Tensor, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class Context:
    """What an objective is built for.

    Args:
        item_shape: (c, h, w) in matching space.
        num_classes: K.
        device: where everything lives.
        num_steps: how many steps will be taken.
        augmentation: for network inputs or codes, or None.
        experts: where the objective's `needs_experts` says so, else None.
        observer: where the objective's `needs_observer` says so, else None.
        originals: where the objective's `needs_originals` says so, else None: the real images [B, C, H, W] in [0, 1]
            behind the items of these indices (int64 [B], on the CPU).
        images_of: items in matching space to images in [0, 1], differentiable: the `decode` of the codec whose space it
            is (a mosaic's is its `preprocess`). None where items are the observer's inputs.
    """

    item_shape: tuple[int, int, int]
    num_classes: int
    device: torch.device | str = "cpu"
    num_steps: int = 1
    augmentation: Augmentation | None = None
    experts: Experts | None = None
    observer: ObserverLike | None = None
    originals: Callable[[Tensor], Tensor] | None = None
    images_of: Callable[[Tensor], Tensor] | None = None

    @property
    def matched_images(self) -> Callable[[Tensor], Tensor]:
        """`images_of`, or what it stands for where there is none."""
        if self.images_of is not None:
            return self.images_of
        if self.observer is None:
            raise ValueError("without an observer the context must say how items become images")
        return self.observer.preprocess.decode


class Objective(nn.Module, ABC):
    """Adds d(loss)/d(parameter) to the `.grad` of the synthetic items, of their soft labels and of its own parameters.

    It accumulates instead of returning a loss because the good implementations are not one graph: exact adjoints,
    chunked decode-and-inject, independent items.

    Attributes:
        kind: its name in the registry and in manifests.
        needs_experts: whether it reads trajectories of networks trained on the real items.
        needs_observer: whether it looks at images through a network trained on the real items.
        needs_originals: whether it reads the real image behind each item.
        learned_names: what `learned` will give.
    """

    kind: ClassVar[str]
    learned_names: ClassVar[tuple[str, ...]] = ()
    space: ClassVar[Literal["code", "pixel"]] = "code"
    needs_experts: ClassVar[bool] = False
    needs_observer: ClassVar[bool] = False
    needs_originals: ClassVar[bool] = False

    @abstractmethod
    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        """One step's loss: adds its gradient to `.grad` of the synthetic parameters.

        Args:
            synthetic: a Parameterization; `synthetic(items)` gives items in matching space.
            real: the real items in the same space.
            generator: on the CPU, of this step alone; the source of all its randomness.

        Returns:
            Figures to log, "loss" among them.
        """

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        """Its own trainable parameters as groups for torch.optim.SGD, each with "params", "lr" and "momentum"."""
        return ()

    def resume_state(self) -> Mapping[str, Tensor]:
        """What one step leaves for the next apart from `parameter_groups`; saved in checkpoints.

        Sizes of chunks are part of it: they change roundings, and a resumed run must end as one that never stopped.
        """
        return {}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `resume_state` gave, in chunks no larger than now and then."""

    def learned(self) -> Mapping[str, float]:
        """Learned numbers that whoever trains on the items should know, by name; kept in the manifest."""
        return {}

    def halve_memory(self) -> bool:
        """Work in chunks of half the size from now on; False where they cannot become smaller."""
        return False


class NoObjectiveConfig(Config):
    """Nothing is matched and nothing is trained; such a recipe has no steps."""

    kind: Literal["none"] = "none"
