"""The contract of an objective: what of the synthetic items is made to agree with the real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from attar.base.config import Config
from attar.data.augmentation import Augmentation, DsaConfig
from attar.methods.composition import Composition, Unmet, starts_from_noise
from attar.models.codecs.codec import Codec
from attar.models.experts.config import Experts, ReadsExperts
from attar.models.networks.network import Network
from attar.models.networks.registry import build_network
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
class MapsOfImages(Protocol):
    """What an objective asks of an observer whose statistics do not matter; differentiable with respect to images."""

    @property
    def preprocess(self) -> Codec:
        """Images to its network inputs."""

    def logits(self, images: Tensor) -> Tensor:
        """[B, K], of images [B, C, H, W] in [0, 1]."""

    def maps(self, images: Tensor, layer: int) -> Tensor:
        """[B, c, h, w], what block `layer` gives before its pooling; negative numbers count from the end."""


@runtime_checkable
class ObserverLike(MapsOfImages, Protocol):
    """A frozen network trained on the real items, as an objective sees it."""

    def batch_statistics(self) -> Sequence[nn.BatchNorm2d]:
        """Its batch norms, the first layer's first."""

    def fused(self, num_images: int, precision: Precision) -> MapsOfImages:
        """One that answers the same up to rounding, made fast for so many images."""


@dataclass(frozen=True)
class Context:
    """What an objective is built for.

    Args:
        item_shape: (c, h, w) in matching space.
        num_classes: K.
        device: where everything lives.
        num_steps: how many steps will be taken.
        augmentation: for network inputs or codes, or None.
        experts: where the objective asks for them, else None.
        observer: where the objective asks for one, else None.
        originals: where the objective asks for them, else None: the real images [B, C, H, W] in [0, 1] behind the items
            of these indices (int64 [B], on the CPU).
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


SECOND_ORDER = 2.2
"""Activations of a pass that is differentiated twice, against those of one backward pass: measured, docs/memory.md."""

VALUE_BYTES = 4


class MatchingConfig(Config):
    """Settings of an objective; each kind says here what it asks for and what it takes of memory.

    Attributes:
        asks_for: of "experts", "observer" and "originals", what its context must bring; see `composition.NEEDS`.
        draws_samples: whether it hands a generator to the items whenever it looks at them, and looks once at a sample.
        learned_names: what `Objective.learned` will give.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    draws_samples: ClassVar[bool] = True
    own_learned_names: ClassVar[tuple[str, ...]] = ()

    kind: str

    @property
    def needs(self) -> frozenset[str]:
        """`asks_for`, of all components together."""
        return self.asks_for

    @property
    def learned_names(self) -> tuple[str, ...]:
        """The numbers that `Objective.learned` will give."""
        return self.own_learned_names

    @property
    def components(self) -> tuple[MatchingConfig, ...]:
        """The objectives that match by themselves: this one, those of a sum, or none."""
        return (self,)

    @property
    def expert_settings(self) -> ReadsExperts | None:
        """By which the experts are trained; None where it reads none."""
        return cast(ReadsExperts, self) if "experts" in self.asks_for else None

    @property
    def num_samples(self) -> int:
        """How often an item is drawn in a step."""
        return int(getattr(self, "samples", 1))

    @property
    def chunk_size(self) -> int:
        """The most items that go through a network at once."""
        return int(getattr(self, "chunk_items", 1))

    @property
    def views(self) -> DsaConfig | None:
        """The augmentation of what is matched; an observer's views are its own business."""
        return None if "observer" in self.asks_for else cast("DsaConfig | None", getattr(self, "augmentation", None))

    def without_flip(self) -> MatchingConfig:
        """The same, mirroring nothing that an observer looks at."""
        return self

    def halved(self) -> MatchingConfig:
        """The same in chunks of half the size."""
        return self.model_copy(update={"chunk_items": max(1, self.chunk_size // 2)})

    def with_parts(self, parts: Sequence[MatchingConfig]) -> MatchingConfig:
        """The same with other settings of its components: of an objective by itself, these are it."""
        (part,) = parts
        return part

    @abstractmethod
    def build(self, context: Context) -> Objective:
        """The objective for a run. Raises InputError as the objective's class does."""

    def network_in(self, context: Context) -> Network:
        """The network that items go through: the observer's, or one like those that are trained."""
        if "observer" in self.asks_for:
            return cast(Any, context.observer).network
        return build_network(cast(Any, self).network, context.item_shape, context.num_classes)

    def network_copies(self, num_classes: int) -> int:
        """Vectors of the network's size that exist at once."""
        return 1

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        """Items whose activations exist at once, in units of one backward pass."""
        return float(min(num_items, self.chunk_size))

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """What else a step takes, by purpose."""
        return {}

    def with_spare_memory(
        self, spare_bytes: int, network: Network, context: Context, num_items: int
    ) -> tuple[MatchingConfig, dict[str, int]]:
        """Settings that trade bytes left over for time, and the bytes that they take, by purpose."""
        return self, {}

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        """Needs of this objective that the recipe does not meet."""
        items, name = recipe.parameterization, f"objective {self.kind!r}"
        if not recipe.steps or recipe.optimizer is None:
            yield Unmet("steps", f"{name} needs an optimizer and steps of at least 1")
        if "originals" in self.needs and starts_from_noise(recipe):
            yield Unmet("originals", f"{name} needs real images to start from, not noise; set initialization=random")
        elif "originals" in self.needs and not items.restores_loss(recipe.codec):
            mend = "set parameterization.kind=mosaic, or take a codec that loses something"
            yield Unmet("loss", f"{name} restores what squeezing lost; {mend}")
        for part in self.components:
            if part.num_samples > 1 and not items.stochastic:
                text = f"{part.num_samples} samples of items of kind {items.kind!r} that are not sampled; set samples=1"
                yield Unmet("samples", text)
            if items.stochastic and not part.draws_samples:
                mend = "set objective.kind to trajectories, discrepancy, features or gradients"
                yield Unmet("samples", f"objective {part.kind!r} looks at an item twice, and priors are drawn; {mend}")
            if part.views is not None and items.matching == "codes" and not recipe.codec.affine:
                yield Unmet(
                    "affine codes",
                    f"the codes of {recipe.codec.kind!r} do not follow augmentation (DSA); set "
                    "objective.augmentation=null, or use codec pixels, pca or dct",
                )


class NoObjectiveConfig(MatchingConfig):
    """Nothing is matched: the initial items are the result (coresets, LatentDD's "Initial")."""

    kind: Literal["none"] = "none"

    @property
    def components(self) -> tuple[MatchingConfig, ...]:
        return ()

    def build(self, context: Context) -> Objective:
        raise ValueError("a recipe without an objective has nothing to build")

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        if recipe.steps or recipe.optimizer:
            yield Unmet("steps", "without an objective nothing is trained; set steps to 0 and optimizer to null")
        if recipe.parameterization.blank_start:
            text = f"items of kind {recipe.parameterization.kind!r} show nothing before they are trained"
            yield Unmet("steps", f"{text}; set objective.kind to trajectories, discrepancy, features or gradients")


class Objective(nn.Module, ABC):
    """Adds d(loss)/d(parameter) to the `.grad` of the synthetic items, of their soft labels and of its own parameters.

    It accumulates instead of returning a loss because the good implementations are not one graph: exact adjoints,
    chunked decode-and-inject, independent items.

    Args:
        config: its settings.
        context: what it is built for, with everything that the settings ask for.

    Attributes:
        chunk_items: the most items that go through a network at once; halved where memory runs out.
    """

    config: MatchingConfig

    def __init__(self, config: MatchingConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.num_classes = context.num_classes
        self.chunk_items = config.chunk_size
        self.augment = context.augmentation

    def draw_views(self, shape: tuple[int, int, int], generator: torch.Generator) -> Any:
        """What the augmentation does to all items of a step alike; None without one."""
        return None if self.augment is None else self.augment.draw(1, shape, generator, siamese=True)

    def augmented(self, items: Tensor, views: Any) -> Tensor:
        """Items as `draw_views` has them seen."""
        return items if self.augment is None else self.augment.apply(items, views)

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
        """Its own trainable parameters as groups for torch.optim, each with "params" and "lr".

        A group is updated by SGD, with "momentum", unless "optimizer" says "adamw"; "maximize" ascends, as an
        adversary does.
        """
        return ()

    def resume_state(self) -> Mapping[str, Tensor]:
        """What one step leaves for the next apart from `parameter_groups`; saved in checkpoints.

        Sizes of chunks are part of it: they change roundings, and a resumed run must end as one that never stopped.
        """
        return {"chunk_items": torch.tensor(self.chunk_items)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `resume_state` gave, in chunks no larger than now and then."""
        self.chunk_items = min(self.chunk_items, int(state.get("chunk_items", self.chunk_items)))

    def learned(self) -> Mapping[str, float]:
        """Learned numbers that whoever trains on the items should know, by name; kept in the manifest."""
        return {}

    def halve_memory(self) -> bool:
        """Work in chunks of half the size from now on; False where they cannot become smaller."""
        if self.chunk_items == 1:
            return False
        self.chunk_items //= 2
        return True


def class_probabilities(synthetic: Synthetic, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[M, K], the label of every item as probabilities: the softmax of soft labels, or 1 at the item's class."""
    if synthetic.soft_labels is not None:
        return synthetic.soft_labels.softmax(1).to(dtype)
    return torch.nn.functional.one_hot(synthetic.labels, num_classes).to(dtype)


def values_of_layer(network: Network, layer: int | Literal["final", "logits"] = "final") -> int:
    """How many values a network makes of one item: its features ("final"), its logits, or the map of a block."""
    shell = deepcopy(network).to("meta")
    image = torch.empty(1, *network.input_shape, device="meta")
    if layer == "logits":
        return int(shell(image).numel())
    return int((shell.features(image) if layer == "final" else shell.maps(image, layer)).numel())
