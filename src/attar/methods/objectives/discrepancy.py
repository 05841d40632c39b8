"""Discrepancy: real and synthetic features of a class are made to agree in distribution, by the kernel MMD (D3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.base.shapes import Bool, Float, Int64
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import class_means
from attar.methods.objectives.objective import (
    VALUE_BYTES,
    Context,
    MatchingConfig,
    Objective,
    Synthetic,
    draw_trajectory,
    gradient_in_chunks,
)
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import Network, NetworkConfig, num_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

Estimator: TypeAlias = Literal["unbiased", "biased"]

KERNEL_VALUES = 1 << 20
"""Pairs of items whose kernels are computed at once: as many classes as this holds, at least one."""

KERNEL_COPIES = 5
"""Tensors of one value a pair of items that a mixture of kernels takes, beside one for each bandwidth: measured."""


class DiscrepancyConfig(MatchingConfig):
    """Settings of matching by the kernel MMD (maximum mean discrepancy).

    Args:
        network: of the experts, which give the features.
        experts: how the experts are trained.
        feature_epoch: the epochs after which an expert gives the features: a number, "last", or "random": every step
            draws one from 0 to the last.
        layer: "final", what the linear layer sees; or a block's map before its pooling, flattened, by the block's
            number from 0 (negative ones count from the end).
        bandwidths: every sigma of the mixture of Gaussian kernels.
        scale: the unit of the bandwidths. "none": that of the features, as D3 prints it; in thousands of dimensions
            squared distances are in the hundreds or thousands, and kernels of small sigma are 0 everywhere. "mean": the
            one in which the kernel of the geometric mean of all bandwidths (4 for 1, 2, 4, 8, 16) is 1/e at the mean
            squared distance between two real items of a class; then the bandwidths' ratios alone matter.
        estimator: "unbiased", about 0 for equal distributions and at times negative; or "biased", never negative.
        real_batch_size: real items of each class in a step.
        samples: how often each synthetic item is drawn in a step: more than 1 where the parameterization samples (D3:
            30 // priors per class).
        augmentation: siamese DSA, applied alike to real and synthetic items, and to the experts' training items.
        augmented: "both", or the "experts" alone.
        chunk_items: the most items that go through the network at once.
        weight: factor of the loss.

    Raises:
        InputError: an epoch beyond the experts' end, a setting without effect, batch norm.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"experts"})

    kind: Literal["discrepancy"] = "discrepancy"
    network: NetworkConfig = NetworkConfig()
    experts: ExpertsConfig = ExpertsConfig()
    feature_epoch: Literal["last", "random"] | Annotated[int, Field(ge=0)] = "last"
    layer: Literal["final"] | int = "final"
    bandwidths: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    scale: Literal["none", "mean"] = "mean"
    estimator: Estimator = "unbiased"
    real_batch_size: int = Field(default=64, ge=2)
    samples: int = Field(default=1, ge=1)
    augmentation: DsaConfig | None = None
    augmented: Literal["both", "experts"] = "both"
    chunk_items: int = Field(default=1024, ge=1)
    weight: float = Field(default=1.0, gt=0)

    def build(self, context: Context) -> Discrepancy:
        return Discrepancy(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 2  # an expert's parameters, as they are read and in the network

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        return float(min(self.chunk_items, max(self.samples * num_items, self.real_batch_size * num_classes)))

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """All items' features, the rendered items, each with its gradient, and the kernels in hand."""
        shell = deepcopy(network).to("meta")
        image = torch.empty(1, *network.input_shape, device="meta")
        each = shell.features(image) if self.layer == "final" else shell.maps(image, self.layer)
        num_real, num_rendered = self.real_batch_size * context.num_classes, self.samples * num_items
        features = each.numel() * (num_real + 3 * num_rendered)
        pairs = (self.real_batch_size + math.ceil(num_rendered / context.num_classes)) ** 2
        kernels = max(pairs, min(KERNEL_VALUES, pairs * context.num_classes))
        copies = KERNEL_COPIES + len(self.bandwidths)
        return {"features": VALUE_BYTES * (features + 3 * image.numel() * num_rendered + copies * kernels)}

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> DiscrepancyConfig:
        if self.network.norm == "batch":
            raise InputError(
                "an expert's features must be those of its parameters alone, and batch norm keeps running statistics; "
                "take norm 'instance'"
            )
        if self.augmented == "experts" and self.augmentation is None:
            raise InputError("augmented has no effect without augmentation; leave it out, or give an augmentation")
        _check_epoch(self, self.experts.epochs)
        return self


def squared_mmd(
    real: Float[Tensor, "classes n features"],
    synthetic: Float[Tensor, "classes m features"],
    num_real: Int64[Tensor, " classes"],
    num_synthetic: Int64[Tensor, " classes"],
    bandwidths: Sequence[float],
    estimator: Estimator = "unbiased",
) -> Float[Tensor, " classes"]:
    """Squared kernel MMD of every class, differentiable with respect to the synthetic features.

        MMD^2(X, Y) = 1/(n (n-1)) sum_{i != j} k(x_i, x_j) - 2/(n m) sum_{i, j} k(x_i, y_j)
                      + 1/(m (m-1)) sum_{i != j} k(y_i, y_j)
        k(x, y) = sum_sigma exp(-||x - y||^2 / (2 sigma^2))

    The biased estimator keeps the pairs i = j and divides by n^2 and m^2. Where a class has one item, the unbiased
    within term is undefined and left out: there is nothing to spread apart, and the gradient is the biased one's.

    Args:
        real: features by class, rows beyond a class's number arbitrary but finite; without gradient.
        synthetic: likewise, classes in the same order.
        num_real: rows of each class that count, at least 1.
        num_synthetic: likewise.
        bandwidths: every sigma.
        estimator: see above.

    Source: Qin et al. 2024 (D3), Eq. 4; Gretton et al. 2012, Lemma 6.
    Deviation: Eq. 4 divides the sums over i != j, which have every pair twice, by n(n-1)/2 and m(m-1)/2, and the cross
        sum by nm: as printed the within terms are doubled, the cross term is halved, and equal distributions do not
        give 0. Here is the estimator that it names.
    """
    # Distances do not change when all move alike; near the origin fewer of their digits cancel.
    centre = (real.sum(1) / num_real[:, None]).unsqueeze(1)
    real, synthetic = real - centre, synthetic - centre
    of_real, of_synthetic = _counted(num_real, real.shape[1]), _counted(num_synthetic, synthetic.shape[1])
    with torch.no_grad():
        within_real = _mean_kernel(real, real, _within(of_real, estimator), bandwidths)
    across = _mean_kernel(real, synthetic, of_real[:, :, None] & of_synthetic[:, None], bandwidths)
    within_synthetic = _mean_kernel(synthetic, synthetic, _within(of_synthetic, estimator), bandwidths)
    return within_real - 2 * across + within_synthetic


def mean_squared_distance(
    features: Float[Tensor, "items features"], labels: Int64[Tensor, " items"], num_classes: int
) -> float:
    """Mean squared distance between two items of one class, averaged over classes of more than one item; 0 without any.

    mean_{i != j} ||x_i - x_j||^2 = 2/(n-1) sum_i ||x_i - mean||^2
    """
    gaps = (features - class_means(features, labels, num_classes)[labels]).square().sum(1)
    sums = torch.zeros(num_classes, dtype=gaps.dtype, device=gaps.device).index_add(0, labels, gaps)
    counts = torch.bincount(labels, minlength=num_classes)
    several = counts > 1
    return float((2 * sums[several] / (counts[several] - 1)).mean()) if several.any() else 0.0


def by_class(
    features: Float[Tensor, "items features"], counts: Sequence[int]
) -> Float[Tensor, "classes most features"]:
    """Class-major rows, `counts` of each class, as one block for each class; smaller classes end in rows of zeros."""
    if min(counts) == max(counts):
        return features.unflatten(0, (len(counts), -1))
    return pad_sequence(features.split(list(counts)), batch_first=True)


class Discrepancy(Objective):
    """D3's second objective in whatever space the items live: the kernel MMD between features of each class.

        L = weight sum_c MMD^2(psi(real items of c), psi(synthetic items of c))

    psi is a layer of an expert that each step draws, at `feature_epoch`. All items of all classes go through it in one
    batch, the real ones without gradient. Kernels are computed class by class in one product, never between classes, so
    that time and memory grow with the number of classes. Nothing is derived with respect to the expert's weights.

    Synthetic items are rendered once a step. Where they do not fit in one chunk, their features are found without graph
    first; then each chunk's are found again, with one, and take their part of the loss's gradient: one more pass
    forward, and the same result.

    Args:
        config: settings.
        context: what it is built for; its experts and its augmentation are used.

    Raises:
        InputError: no experts, or experts that are too short.

    Source: Qin et al. 2024 (D3), Eq. 5 and appendix B.3.
    Deviation: see `squared_mmd`, and `scale` of the settings. One draw of the siamese augmentation serves all classes.
    """

    config: DiscrepancyConfig

    def __init__(self, config: DiscrepancyConfig, context: Context) -> None:
        super().__init__(config, context)
        if context.experts is None:
            raise InputError("matching by discrepancy needs experts and was given none; train some first")
        _check_epoch(config, context.experts.num_epochs)
        self.experts = context.experts
        self.augment = context.augmentation if config.augmented == "both" else None
        self.network = build_network(config.network, context.item_shape, context.num_classes)
        self.network.to(context.device).requires_grad_(False).eval()

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        items = torch.arange(len(synthetic.labels), device=synthetic.labels.device)
        items = items.repeat_interleave(self.config.samples)
        rendered = synthetic(items, make_generator(seed, "items"))
        values = self._draw_expert(make_generator(seed, "expert")).to(rendered.device, rendered.dtype)
        torch.nn.utils.vector_to_parameters(values, self.network.parameters())
        drawn = None
        if self.augment is not None:
            drawn = self.augment.draw(1, real.shape, make_generator(seed, "augmentation"), siamese=True)
        indices, labels = real.class_batches(self.config.real_batch_size, make_generator(seed, "real"))
        seen = self._real_features(real, indices, drawn, rendered.dtype)
        compare = functools.partial(
            self._compare,
            seen,
            torch.bincount(labels, minlength=self.num_classes),
            torch.bincount(synthetic.labels[items], minlength=self.num_classes).cpu(),
            self._bandwidths(seen, labels.to(seen.device)),
        )
        loss, gradient = gradient_in_chunks(
            rendered, lambda inputs: self._features(inputs, drawn), compare, self.chunk_items
        )
        rendered.backward(gradient)
        return {"loss": float(loss)}

    def _draw_expert(self, generator: torch.Generator) -> Tensor:
        """Parameters of an expert, after the epochs that the settings name."""
        expert = draw_trajectory(self.experts, self.config.experts.count, generator)
        epoch = self.config.feature_epoch
        if epoch == "random":
            epoch = int(torch.randint(self.experts.num_epochs + 1, (1,), generator=generator))
        values = self.experts.parameters(expert, self.experts.num_epochs if epoch == "last" else epoch)
        if len(values) != num_parameters(self.network):
            raise InputError(
                f"the experts have {len(values)} parameters and the network of features {num_parameters(self.network)};"
                " train experts of this network on these items"
            )
        return values

    @torch.no_grad()
    def _real_features(self, real: RealItems, indices: Tensor, drawn: Any, dtype: torch.dtype) -> Tensor:
        chunks = indices.split(self.chunk_items)
        return torch.cat([self._features(real.gather(chunk).to(dtype), drawn) for chunk in chunks])

    def _features(self, inputs: Tensor, drawn: Any) -> Tensor:
        if self.augment is not None:
            inputs = self.augment.apply(inputs, drawn)
        if self.config.layer == "final":
            return self.network.features(inputs)
        return self.network.maps(inputs, self.config.layer).flatten(1)

    def _bandwidths(self, features: Tensor, labels: Tensor) -> list[float]:
        """In units of the features: 2 sigma^2 of the geometric mean becomes the mean squared distance."""
        given = self.config.bandwidths
        if self.config.scale == "none":
            return list(given)
        distance = mean_squared_distance(features, labels, self.num_classes)
        if distance == 0:
            raise InputError(
                "the real items of every class have the same features, so there is no distance to scale bandwidths by; "
                "set objective.scale=none"
            )
        middle = math.exp(sum(map(math.log, given)) / len(given))
        return [sigma / middle * math.sqrt(distance / 2) for sigma in given]

    def _compare(
        self, seen: Tensor, num_real: Tensor, num_synthetic: Tensor, bandwidths: list[float], features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to class-major features, some classes at a time."""
        pairs = (int(num_real.max()) + int(num_synthetic.max())) ** 2
        at_once = max(1, KERNEL_VALUES // pairs)
        blocks = [counts.split(at_once) for counts in (num_real, num_synthetic)]
        rows = [
            tensor.split([int(counts.sum()) for counts in block])
            for tensor, block in zip((seen, features), blocks, strict=True)
        ]
        losses, gradients = [], []
        for of_real, of_synthetic, real, synthetic in zip(*blocks, *rows, strict=True):
            leaf = synthetic.detach().requires_grad_()
            values = squared_mmd(
                by_class(real, of_real.tolist()),
                by_class(leaf, of_synthetic.tolist()),
                of_real.to(seen.device),
                of_synthetic.to(seen.device),
                bandwidths,
                self.config.estimator,
            )
            loss = self.config.weight * values.sum()
            gradients += torch.autograd.grad(loss, leaf)
            losses.append(loss.detach())
        return torch.stack(losses).sum(), torch.cat(gradients)


def _counted(counts: Int64[Tensor, " classes"], most: int) -> Bool[Tensor, "classes most"]:
    """Which rows of a padded block are a class's own."""
    return torch.arange(most, device=counts.device) < counts[:, None]


def _within(counted: Bool[Tensor, "classes n"], estimator: Estimator) -> Bool[Tensor, "classes n n"]:
    """Which pairs of a block count."""
    pairs = counted[:, :, None] & counted[:, None]
    return pairs if estimator == "biased" else pairs & ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)


def _mean_kernel(
    one: Float[Tensor, "classes n features"],
    two: Float[Tensor, "classes m features"],
    pairs: Bool[Tensor, "classes n m"],
    bandwidths: Sequence[float],
) -> Float[Tensor, " classes"]:
    """The mixture's mean over the pairs that count; 0 where there are none."""
    norms = one.square().sum(2)[:, :, None] + two.square().sum(2)[:, None]
    distances = torch.baddbmm(norms, one, two.transpose(1, 2), alpha=-2).clamp_min(0)
    kernel = torch.zeros_like(distances)
    for sigma in bandwidths:
        kernel = kernel + torch.exp(distances * (-0.5 / sigma**2))
    return kernel.where(pairs, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def _check_epoch(config: DiscrepancyConfig, num_epochs: int) -> None:
    if isinstance(config.feature_epoch, int) and config.feature_epoch > num_epochs:
        raise InputError(
            f"features of epoch {config.feature_epoch} were asked for and the experts have {num_epochs} epochs; "
            "lower feature_epoch or raise experts.epochs"
        )
