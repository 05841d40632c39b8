"""What objectives share that read experts: their settings, one network in the experts' place, and all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.base.shapes import Int64
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.objective import (
    VALUE_BYTES,
    Context,
    MatchingConfig,
    Objective,
    Synthetic,
)
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig, num_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems


class ExpertMatchingConfig(MatchingConfig):
    """Settings of an objective that reads experts.

    Args:
        network: of the experts.
        experts: how the experts are trained.
        augmentation: DSA of what is matched, real and synthetic items alike, and of the experts' training items.
        augmented: "both", or the "experts" alone.
        samples: how often each synthetic item is drawn in a step: more than 1 where the parameterization samples.
        chunk_items: the most items that go through the network at once.

    Raises:
        InputError: a setting without effect, batch norm.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"experts"})

    network: NetworkConfig = NetworkConfig()
    experts: ExpertsConfig = ExpertsConfig()
    augmentation: DsaConfig | None = None
    augmented: Literal["both", "experts"] = "both"
    samples: int = Field(default=1, ge=1)
    chunk_items: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _experts_are_their_parameters(self) -> ExpertMatchingConfig:
        if self.network.norm == "batch":
            raise InputError(
                "an expert must be what its parameters alone determine, and batch norm keeps running statistics; "
                "take norm 'instance'"
            )
        if self.augmented == "experts" and self.augmentation is None:
            raise InputError("augmented has no effect without augmentation; leave it out, or give an augmentation")
        return self


class ExpertMatching(Objective):
    """An objective that reads experts.

    Raises:
        InputError: no experts.
    """

    config: ExpertMatchingConfig

    def __init__(self, config: ExpertMatchingConfig, context: Context) -> None:
        super().__init__(config, context)
        if context.experts is None:
            raise InputError(f"objective {config.kind!r} needs experts and was given none; train some first")
        self.experts = context.experts
        if config.augmented == "experts":
            self.augment = None
        self.network = build_network(config.network, context.item_shape, context.num_classes)
        self.network.to(context.device).requires_grad_(False).eval()

    def draw_expert(self, generator: torch.Generator) -> int:
        """One of the first `experts.count` experts, so that having more does not change what a seed gives."""
        count = min(self.experts.num_experts, self.config.experts.count)
        if count < 1:
            raise InputError("there are no experts to match; train at least one (objective.experts.count)")
        return int(torch.randint(count, (1,), generator=generator))

    def expert_parameters(self, expert: int, epoch: int, like: Tensor) -> Tensor:
        """An expert's parameters after an epoch, on the device and in the dtype of `like`."""
        values = self.experts.parameters(expert, epoch)
        if len(values) != num_parameters(self.network):
            raise InputError(
                f"the experts have {len(values)} parameters and the network {num_parameters(self.network)}; "
                "train experts of this network on these items"
            )
        return values.to(like)

    def load(self, values: Tensor) -> None:
        """Make the network one of these parameters."""
        torch.nn.utils.vector_to_parameters(values, self.network.parameters())


class ExpertFeaturesConfig(ExpertMatchingConfig):
    """Settings of an objective that compares what experts make of real and of synthetic items, class by class.

    Args:
        real_batch_size: real items of each class in a step.
        weight: factor of the loss.
    """

    real_batch_size: int = Field(default=256, ge=1)
    weight: float = Field(default=1.0, gt=0)

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        return float(min(self.chunk_items, max(self.samples * num_items, self.real_batch_size * num_classes)))

    def bytes_of_features(self, size: int, context: Context, num_items: int) -> int:
        """Bytes of all items' features, `size` values each; of synthetic ones with a copy and a gradient."""
        return VALUE_BYTES * size * (self.real_batch_size * context.num_classes + 3 * self.samples * num_items)


@dataclass(frozen=True)
class Drawn:
    """What one step draws.

    Args:
        seed: of whatever else the step draws, by purpose.
        items: int64 [S M], the synthetic items, each as often as it is sampled.
        rendered: the samples, with their graph.
        views: what the augmentation drew for all items alike, or None.
    """

    seed: int
    items: Int64[Tensor, " samples"]
    rendered: Tensor
    views: Any

    def generator(self, purpose: str) -> torch.Generator:
        return make_generator(self.seed, purpose)


class ExpertFeatures(ExpertMatching):
    """An objective that compares features of experts; nothing is derived with respect to the experts' weights.

    All items of all classes go through the network in one batch, the real ones without gradient.
    """

    config: ExpertFeaturesConfig

    def features(self, inputs: Tensor) -> Tensor:
        """What the network makes of items, augmented already: one row of values each."""
        return self.network.features(inputs)

    def draw(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> Drawn:
        """Render the synthetic items, once a step, and draw the views of all items."""
        # A generator for each purpose, so that no draw moves another: more samples leave the expert as it is.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        items = torch.arange(len(synthetic.labels), device=synthetic.labels.device)
        items = items.repeat_interleave(self.config.samples)
        rendered = synthetic(items, make_generator(seed, "items"))
        return Drawn(seed, items, rendered, self.draw_views(real.shape, make_generator(seed, "augmentation")))

    @torch.no_grad()
    def real_features(self, drawn: Drawn, real: RealItems) -> tuple[Tensor, Tensor]:
        """Features of a batch of every class, and the classes of its rows, on the CPU."""
        indices, labels = real.class_batches(self.config.real_batch_size, drawn.generator("real"))
        chunks = [real.gather(chunk).to(drawn.rendered.dtype) for chunk in indices.split(self.chunk_items)]
        return torch.cat([self.features(self.augmented(chunk, drawn.views)) for chunk in chunks]), labels

    def gradient(self, drawn: Drawn, compare: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to `drawn.rendered`, whose own graph is left alone.

        Where the items do not fit in one chunk, their features are found without graph first. Then each chunk's are
        found again, with one, and take their part of the loss's gradient: one more pass forward, the same result.

        Args:
            drawn: of this step.
            compare: all synthetic features, without graph, to the loss and its gradient with respect to them.
        """
        leaves = [chunk.detach().requires_grad_() for chunk in drawn.rendered.split(self.chunk_items)]
        in_one = len(leaves) == 1

        def features_of(leaf: Tensor) -> Tensor:
            return self.features(self.augmented(leaf, drawn.views))

        with torch.set_grad_enabled(in_one):
            features = torch.cat([features_of(leaf) for leaf in leaves])
        loss, of_features = compare(features.detach())
        gradients: list[Tensor] = []
        for leaf, of_chunk in zip(leaves, of_features.split(self.chunk_items), strict=True):
            gradients += torch.autograd.grad(features if in_one else features_of(leaf), leaf, of_chunk)
        return loss, torch.cat(gradients)
