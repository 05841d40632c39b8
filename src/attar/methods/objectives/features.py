"""Mean features: class means under freshly drawn random networks are made to agree (DM, LatentDM)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.device import Calling
from attar.base.randomness import generator as make_generator
from attar.base.shapes import Float, Int64
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.objective import Context, MatchingConfig, Objective, Synthetic
from attar.models.networks.network import NetworkConfig, initialise_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.models.training.acceleration import (
    Precision,
    forward_flops,
    forward_function,
    forward_norm_values,
    resolve_acceleration,
)

_CACHED_BYTES = 1 << 28
"""Of one forward pass on a CPU. Larger blocks are given back to the system at every layer, whatever the allocator was
told: 160 images of 128 x 128 through a ConvNet of width 64 took 3.5 s of processor time at once, 1.4 s in parts."""


class FeaturesConfig(MatchingConfig):
    """Settings of mean-feature matching.

    Args:
        network: the random feature network; its linear layer is not used.
        real_batch_size: real items of each class in a step.
        augmentation: siamese DSA, applied alike to real and synthetic items: to network inputs, or through an affine
            codec (pca, dct) to codes; None in an autoencoder's space.
        chunk_items: the most items that go through the network at once.
        precision: of the real items' pass, which carries no gradient; the synthetic pass is always float32.
    """

    kind: Literal["features"] = "features"
    network: NetworkConfig = NetworkConfig()
    real_batch_size: int = Field(default=256, ge=1)
    augmentation: DsaConfig | None = None
    chunk_items: int = Field(default=256, ge=1)
    precision: Precision = "auto"

    def build(self, context: Context) -> Features:
        return Features(self, context)

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        return max(float(self.chunk_items), num_items / num_classes)


def class_means(
    features: Float[Tensor, "items features"], labels: Int64[Tensor, " items"], num_classes: int
) -> Float[Tensor, "classes features"]:
    """Mean of the features of each class, float32; classes may differ in size, none may be empty."""
    sums = torch.zeros(num_classes, features.shape[1], dtype=features.dtype, device=features.device)
    counts = torch.bincount(labels, minlength=num_classes).to(features.dtype)
    return sums.index_add(0, labels, features) / counts[:, None]


def mean_feature_distance(
    real: Float[Tensor, "classes features"], synthetic: Float[Tensor, "classes features"]
) -> Float[Tensor, ""]:
    """Squared distance between class-mean features, summed over classes.

        L = sum_c || mean_i phi(x_ci) - mean_j phi(s_cj) ||^2

    Args:
        real: class means of real items' features.
        synthetic: class means of synthetic items' features, in the same order.

    Source: Zhao & Bilen 2023, the loss of DM; LatentDD Eq. 7 and Algorithm 2, line 7.
    """
    return (real - synthetic).square().sum()


class Features(Objective):
    """DM's objective in whatever space the items live: pixels (DM) or codes (LatentDM).

    Each step draws a new random network and up to `real_batch_size` real items of every class. The real pass is one
    batch over all classes, without gradient, in chunks and in the fastest form the device offers.

    Source: LatentDD Algorithm 2; Zhao & Bilen 2023, Algorithm 1.
    Deviation: one draw of the siamese augmentation serves all classes of a step; the official code draws one per
        class. Each class's loss keeps its distribution, and classes can share one batch. All synthetic items of a class
        are used in every step, as in the official code; the pseudo-code samples a batch of them.
    """

    config: FeaturesConfig

    def __init__(self, config: FeaturesConfig, context: Context) -> None:
        super().__init__(config, context)
        self.network = build_network(config.network, context.item_shape, context.num_classes)
        self.network.to(context.device).requires_grad_(False)
        norm_values = forward_norm_values(self.network, context.item_shape)
        self._num_at_once = _num_at_once(config, context.device, norm_values)
        num_passes = config.real_batch_size * context.num_classes * context.num_steps
        self.acceleration = resolve_acceleration(
            config.precision,
            context.device,
            flops=float(forward_flops(self.network, context.item_shape) * num_passes),
            norm_values=float(norm_values * num_passes),
        )
        self._fast_features = forward_function(Calling(self.network, type(self.network).features), self.acceleration)

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        initialise_parameters(self.network, make_generator(seed, "network", device=real.device))
        indices, labels = real.class_batches(self.config.real_batch_size, generator)
        views = self.draw_views(real.shape, make_generator(seed, "augmentation"))
        target = self._real_means(real, indices, labels.to(real.device), views)
        return {"loss": self._accumulate_synthetic(synthetic, target, views, make_generator(seed, "items"))}

    @torch.no_grad()
    def _real_means(
        self, real: RealItems, indices: Tensor, labels: Tensor, views: Any
    ) -> Float[Tensor, "classes features"]:
        chunks = []
        largest = min(self.chunk_items, self._num_at_once)
        for chunk in indices.chunk(math.ceil(len(indices) / largest)):
            chunks.append(self._fast_features(self.augmented(real.gather(chunk), views)).float())
        return class_means(torch.cat(chunks), labels, self.num_classes)

    def _accumulate_synthetic(
        self, synthetic: Synthetic, target: Tensor, views: Any, generator: torch.Generator
    ) -> float:
        """Classes are independent given the network, so they are back-propagated in chunks of whole classes."""
        labels = synthetic.labels
        per_class = max(1, len(labels) // self.num_classes)
        loss = torch.zeros((), device=target.device)
        step = max(1, self.chunk_items // per_class)
        for first in range(0, self.num_classes, step):
            last = min(first + step, self.num_classes)
            items = ((labels >= first) & (labels < last)).nonzero().squeeze(1)
            inputs = self.augmented(synthetic(items, generator), views)
            means = class_means(self.network.features(inputs), labels[items] - first, last - first)
            part = mean_feature_distance(target[first:last], means)
            part.backward()
            loss += part.detach()
        return float(loss)


def _num_at_once(config: FeaturesConfig, device: torch.device | str, norm_values: int) -> int:
    """How many real items go through the network at once; with batch norm they are of one another's company."""
    if torch.device(device).type != "cpu" or config.network.norm == "batch" or not norm_values:
        return config.chunk_items
    return max(1, _CACHED_BYTES // (4 * norm_values))
