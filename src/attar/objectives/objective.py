"""The contract of an objective: what of the synthetic items is made to agree with the real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from attar.codecs.codec import Codec
from attar.data.augmentation import Augmentation
from attar.data.image_set import ImageSet
from attar.shapes import Float, Int64
from attar.training.acceleration import Precision


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
class Experts(Protocol):
    """Trajectories of networks trained on the real items, as an objective reads them.

    Attributes:
        num_experts: how many there are now; may grow while a run goes on.
        num_epochs: E; parameters are known after 0..E epochs.
    """

    @property
    def num_experts(self) -> int: ...

    @property
    def num_epochs(self) -> int: ...

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """float32 [P], on the CPU: the network's parameters, each flattened, in the order of `named_parameters()`."""


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

    def swift(self, num_images: int, precision: Precision) -> MapsOfImages:
        """One that answers the same up to rounding, made fast for so many images."""


class MapsOfImages(Protocol):
    """What an objective asks of an observer whose statistics do not matter."""

    @property
    def preprocess(self) -> Codec: ...

    def logits(self, images: Tensor) -> Tensor: ...

    def maps(self, images: Tensor, layer: int) -> Tensor: ...


class RealItems:
    """Real items in matching space with their labels, resident on one device.

    Codes are held as they are; images of a cheap codec are held as uint8, four times smaller, and encoded by the batch.

    Args:
        labels: int64 [N].
        num_classes: K; every class must have a member.
        codes: float [N, c, h, w], or None with `images` and `codec` given.
    """

    def __init__(
        self,
        labels: Int64[Tensor, " items"],
        num_classes: int,
        codes: Float[Tensor, "items c h w"] | None = None,
        images: ImageSet | None = None,
        codec: Codec | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if (codes is None) == (images is None):
            raise ValueError("give either codes, or images with their codec")
        self.num_classes = num_classes
        self.labels = labels.to(device)
        self.device = torch.device(device)
        self._codec = codec
        self._stored = codes.to(device) if codes is not None else images.images.to(device)  # type: ignore[union-attr]
        order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=num_classes)
        self._members = torch.full((num_classes, int(counts.max())), -1, dtype=torch.int64)
        for index, members in enumerate(order.split(counts.tolist())):
            self._members[index, : len(members)] = members

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one item in matching space."""
        c, h, w = self._stored.shape[1:] if self._codec is None else self._codec.code_shape
        return c, h, w

    @property
    def num_bytes(self) -> int:
        """Of the items as they are held, labels apart."""
        return self._stored.numel() * self._stored.element_size()

    def gather(self, indices: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        """The items at `indices`, float32, on the device."""
        stored = self._stored[indices.to(self._stored.device)]
        return stored.float() if self._codec is None else self._codec.encode(stored.float() / 255)

    def class_batches(
        self, num_per_class: int, generator: torch.Generator
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """Indices and labels of up to `num_per_class` different members of every class, class-major.

        A class with fewer members gives all it has. `generator` must be on the CPU.
        """
        keys = torch.rand(self._members.shape, generator=generator).masked_fill_(self._members < 0, 2.0)
        drawn = keys.topk(min(num_per_class, keys.shape[1]), dim=1, largest=False).indices
        indices = self._members.gather(1, drawn)
        real = indices >= 0
        labels = torch.arange(self.num_classes).unsqueeze(1).expand_as(indices)
        return indices[real], labels[real]


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
