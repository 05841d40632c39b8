"""Discrepancy: real and synthetic features of a class are made to agree in distribution, by the kernel MMD (D3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attar.base.errors import InputError
from attar.base.shapes import Bool, Float, Int64
from attar.methods.objectives.experts import ExpertFeatures, ExpertFeaturesConfig
from attar.methods.objectives.features import class_means
from attar.methods.objectives.objective import VALUE_BYTES, Context, Synthetic, values_of_layer
from attar.models.networks.network import Network
from attar.models.real_items import RealItems

Estimator: TypeAlias = Literal["unbiased", "biased"]

KERNEL_VALUES = 1 << 20
"""Pairs of items whose kernels are computed at once: as many classes as this holds, at least one."""

KERNEL_COPIES = 5
"""Tensors of one value a pair of items that a mixture of kernels takes, beside one for each bandwidth: measured."""


class DiscrepancyConfig(ExpertFeaturesConfig):
    """Settings of matching by the kernel MMD (maximum mean discrepancy).

    Args:
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
        real_batch_size: at least 2, between which there is a distance.

    D3 takes 30 // priors per class samples.

    Raises:
        InputError: an epoch beyond the experts' end, or as of the base.
    """

    kind: Literal["discrepancy"] = "discrepancy"
    feature_epoch: Literal["last", "random"] | Annotated[int, Field(ge=0)] = "last"
    layer: Literal["final"] | int = "final"
    bandwidths: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    scale: Literal["none", "mean"] = "mean"
    estimator: Estimator = "unbiased"
    real_batch_size: int = Field(default=64, ge=2)

    def build(self, context: Context) -> Discrepancy:
        return Discrepancy(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 2  # an expert's parameters, as they are read and in the network

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """All items' features, the rendered items, each with its gradient, and the kernels in hand."""
        num_rendered = self.samples * num_items
        features = self.bytes_of_features(values_of_layer(network, self.layer), context, num_items)
        images = 3 * VALUE_BYTES * math.prod(network.input_shape) * num_rendered
        pairs = (self.real_batch_size + math.ceil(num_rendered / context.num_classes)) ** 2
        kernels = max(pairs, min(KERNEL_VALUES, pairs * context.num_classes))
        copies = KERNEL_COPIES + len(self.bandwidths)
        return {"features": features + images + VALUE_BYTES * copies * kernels}

    @model_validator(mode="after")
    def _epoch_exists(self) -> DiscrepancyConfig:
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


class Discrepancy(ExpertFeatures):
    """D3's second objective in whatever space the items live: the kernel MMD between features of each class.

        L = weight sum_c MMD^2(psi(real items of c), psi(synthetic items of c))

    psi is a layer of an expert that each step draws, at `feature_epoch`. Kernels are computed class by class in one
    product, never between classes, so that time and memory grow with the number of classes.

    Raises:
        InputError: no experts, or experts that are too short.

    Source: Qin et al. 2024 (D3), Eq. 5 and appendix B.3.
    Deviation: see `squared_mmd`, and `scale` of the settings. One draw of the siamese augmentation serves all classes.
    """

    config: DiscrepancyConfig

    def __init__(self, config: DiscrepancyConfig, context: Context) -> None:
        super().__init__(config, context)
        _check_epoch(config, self.experts.num_epochs)

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        drawn = self.draw(synthetic, real, generator)
        self._load_expert(drawn.generator("expert"), drawn.rendered)
        target, labels = self.real_features(drawn, real)
        compare = functools.partial(
            self._compare,
            target,
            torch.bincount(labels, minlength=self.num_classes),
            torch.bincount(synthetic.labels[drawn.items], minlength=self.num_classes).cpu(),
            self._bandwidths(target, labels.to(target.device)),
        )
        loss, gradient = self.gradient(drawn, compare)
        drawn.rendered.backward(gradient)
        return {"loss": float(loss)}

    def features(self, inputs: Tensor) -> Tensor:
        layer = self.config.layer
        return super().features(inputs) if layer == "final" else self.network.maps(inputs, layer).flatten(1)

    def _load_expert(self, generator: torch.Generator, like: Tensor) -> None:
        """Make the network an expert, after the epochs that the settings name."""
        expert, epoch = self.draw_expert(generator), self.config.feature_epoch
        if epoch == "random":
            epoch = int(torch.randint(self.experts.num_epochs + 1, (1,), generator=generator))
        self.load(self.expert_parameters(expert, self.experts.num_epochs if epoch == "last" else epoch, like))

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
        self, target: Tensor, num_real: Tensor, num_synthetic: Tensor, bandwidths: list[float], features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to class-major features, some classes at a time."""
        pairs = (int(num_real.max()) + int(num_synthetic.max())) ** 2
        at_once = max(1, KERNEL_VALUES // pairs)
        blocks = [counts.split(at_once) for counts in (num_real, num_synthetic)]
        rows = [
            tensor.split([int(counts.sum()) for counts in block])
            for tensor, block in zip((target, features), blocks, strict=True)
        ]
        losses, gradients = [], []
        for of_real, of_synthetic, real, synthetic in zip(*blocks, *rows, strict=True):
            leaf = synthetic.detach().requires_grad_()
            values = squared_mmd(
                by_class(real, of_real.tolist()),
                by_class(leaf, of_synthetic.tolist()),
                of_real.to(target.device),
                of_synthetic.to(target.device),
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
