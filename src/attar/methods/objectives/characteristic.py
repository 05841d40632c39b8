"""Characteristic functions: those of real and synthetic features are made to agree at learned frequencies (NCFM)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.base.shapes import Float
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.objective import (
    VALUE_BYTES,
    Context,
    MatchingConfig,
    Objective,
    Synthetic,
    class_probabilities,
    draw_trajectory,
    gradient_in_chunks,
)
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import Network, NetworkConfig, initialise_parameters, num_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

SMALLEST = 1e-12
"""Square roots are taken of no less, so that their gradients stay finite; the official code's number."""


class CharacteristicConfig(MatchingConfig):
    """Settings of matching by the characteristic function discrepancy.

    Args:
        network: of the experts, which give the features.
        experts: how the experts are trained.
        num_frequencies: T, frequencies t of a step.
        amplitude: weight of the amplitudes' differences against that of the phases, 0 to 1.
        adversary_rate: of the network that proposes frequencies, by AdamW upwards; 0: frequencies are N(0, I).
        noise_variance: of what that network is fed with.
        real_batch_size: real items of each class in a step.
        calibration: weight of the cross-entropy that a trained expert gives the items; 0 leaves it out.
        samples: how often each item is drawn in a step: more than 1 where the parameterization samples.
        augmentation: siamese DSA, applied alike to real and synthetic items, and to the experts' training items.
        chunk_items: the most items that go through the network at once.
        weight: factor of the discrepancy (300 in the official code).

    Raises:
        InputError: batch norm.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"experts"})

    kind: Literal["characteristic"] = "characteristic"
    network: NetworkConfig = NetworkConfig()
    experts: ExpertsConfig = ExpertsConfig()
    num_frequencies: int = Field(default=4096, ge=1)
    amplitude: float = Field(default=0.5, ge=0, le=1)
    adversary_rate: float = Field(default=1e-3, ge=0)
    noise_variance: float = Field(default=0.5, gt=0)
    real_batch_size: int = Field(default=256, ge=1)
    calibration: float = Field(default=1.0, ge=0)
    samples: int = Field(default=1, ge=1)
    augmentation: DsaConfig | None = None
    chunk_items: int = Field(default=1024, ge=1)
    weight: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _parameters_determine_features(self) -> CharacteristicConfig:
        if self.network.norm == "batch":
            raise InputError(
                "an expert's features must be those of its parameters alone, and batch norm keeps running statistics; "
                "take norm 'instance'"
            )
        return self

    def build(self, context: Context) -> Characteristic:
        return Characteristic(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 4  # both ends of an expert, their mixture, and the mixture in the network

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        return float(min(self.chunk_items, max(self.samples * num_items, self.real_batch_size * num_classes)))

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """Features with gradients, frequencies with theirs and the adversary's graph, and one class's projections."""
        size = _feature_size(network)
        num_real, num_rendered = self.real_batch_size * context.num_classes, self.samples * num_items
        features = size * (num_real + 3 * num_rendered)
        frequencies = (2 + 9 * bool(self.adversary_rate)) * self.num_frequencies * size
        projections = 4 * self.num_frequencies * (num_real + num_rendered) // context.num_classes
        adversary = 12 * size * size * bool(self.adversary_rate)
        return {"features": VALUE_BYTES * (features + frequencies + projections + adversary)}


def characteristic_distance(
    real: Float[Tensor, "n features"],
    synthetic: Float[Tensor, "m features"],
    frequencies: Float[Tensor, "t features"],
    amplitude: float = 0.5,
) -> Float[Tensor, ""]:
    """Distance of two empirical characteristic functions, averaged over frequencies; differentiable in all three.

        Phi_x(t) = mean_i exp(i <t, x_i>)
        C = mean_t sqrt(a (|Phi_x| - |Phi_y|)^2 + (1 - a) 2 (|Phi_x| |Phi_y| - Re(Phi_x conj Phi_y)))

    With a = 1/2 the root is of |Phi_x(t) - Phi_y(t)|^2 / 2.

    Args:
        real: x, features of real items of one class.
        synthetic: y, features of synthetic items of the class.
        frequencies: t.
        amplitude: a.

    Source: Wang et al. 2025 (NCFM), equations 4 to 6; NCFM.py of its code, whose smallest root it has.
    """
    real_x, imaginary_x = _characteristic(real, frequencies)
    real_y, imaginary_y = _characteristic(synthetic, frequencies)
    size_x = (real_x.square() + imaginary_x.square() + SMALLEST).sqrt()
    size_y = (real_y.square() + imaginary_y.square() + SMALLEST).sqrt()
    of_phases = 2 * (size_x * size_y - real_x * real_y - imaginary_x * imaginary_y)
    squared = amplitude * (size_x - size_y).square() + (1 - amplitude) * of_phases.clamp_min(SMALLEST)
    return squared.clamp_min(SMALLEST).sqrt().mean()


class SamplingNetwork(nn.Module):
    """Noise to frequencies: three linear layers with batch norm, leaky ReLU of slope 0.2 and, last, tanh.

    Args:
        size: of a feature vector.

    Source: SampleNet.py of the official code.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        norms = [nn.BatchNorm1d(size, track_running_stats=False) for _ in range(3)]
        first, second, last = (nn.Sequential(nn.Linear(size, size), norm) for norm in norms)
        self.layers = nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last, nn.Tanh())

    def forward(self, noise: Float[Tensor, "t features"]) -> Float[Tensor, "t features"]:
        frequencies: Tensor = self.layers(noise)
        return frequencies


class Characteristic(Objective):
    """NCFM's objective in whatever space the items live: a game about characteristic functions of features.

        min_items max_psi  weight sum_c C(f(real items of c), f(synthetic items of c); t ~ psi) + calibration CE

    f gives normalised features of an expert at a random point of the line from its first to its last parameters. The
    frequencies t come from a small network psi that learns, by the same loss upwards, where the two differ. CE is the
    cross-entropy, with the items' labels, that the expert in its last state gives the items.

    Args:
        config: settings.
        context: what it is built for; its experts and its augmentation are used.

    Raises:
        InputError: no experts, or experts of another network.

    Source: Wang et al. 2025 (NCFM), section 3 and Algorithm 1; condenser/ of its code.
    Deviation: items and psi take their steps at once, of the same loss; the official code lets psi follow after each
        class. One draw of the augmentation, of f and of the frequencies serves all classes of a step.
    """

    config: CharacteristicConfig

    def __init__(self, config: CharacteristicConfig, context: Context) -> None:
        super().__init__(config, context)
        if context.experts is None:
            raise InputError("matching by characteristic functions needs experts and was given none; train some first")
        self.experts, self.augment = context.experts, context.augmentation
        self.network = build_network(config.network, context.item_shape, context.num_classes)
        self.network.to(context.device).requires_grad_(False).eval()
        self.feature_size = _feature_size(self.network)
        self.adversary: SamplingNetwork | None = None
        if config.adversary_rate:
            self.adversary = SamplingNetwork(self.feature_size)
            draw = make_generator(config.experts.seed, "sampling network")
            for layer in self.adversary.modules():
                if isinstance(layer, nn.Linear):
                    initialise_parameters(layer, draw)
            self.adversary.to(context.device)

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        items = torch.arange(len(synthetic.labels), device=synthetic.labels.device)
        items = items.repeat_interleave(self.config.samples)
        rendered = synthetic(items, make_generator(seed, "items"))
        first, last = self._expert(make_generator(seed, "expert"), rendered)
        drawn = None
        if self.augment is not None:
            drawn = self.augment.draw(1, real.shape, make_generator(seed, "augmentation"), siamese=True)
        share = float(torch.rand((), generator=make_generator(seed, "mixture")))
        self._load(torch.lerp(first, last, share))
        indices, labels = real.class_batches(self.config.real_batch_size, make_generator(seed, "real"))
        with torch.no_grad():
            chunks = [real.gather(chunk).to(rendered.dtype) for chunk in indices.split(self.chunk_items)]
            target = torch.cat([self._features(chunk, drawn) for chunk in chunks])
        frequencies = self._frequencies(make_generator(seed, "frequencies"), rendered)

        def compare(features: Tensor) -> tuple[Tensor, Tensor]:
            return self._compare(target, labels.to(target.device), features, synthetic.labels[items], frequencies)

        loss, gradient = gradient_in_chunks(
            rendered, lambda inputs: self._features(inputs, drawn), compare, self.chunk_items
        )
        figures = {"loss": float(loss)}
        of_labels = None
        if self.config.calibration:
            self._load(last)
            figures["calibration"], more, of_labels = self._calibrate(rendered, synthetic, items, drawn)
            figures["loss"] += figures["calibration"]
            gradient = gradient + more
        rendered.backward(gradient)
        if of_labels is not None and synthetic.soft_labels is not None and synthetic.soft_labels.requires_grad:
            class_probabilities(synthetic, self.num_classes).backward(of_labels)
        return figures

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        if self.adversary is None:
            return ()
        parameters = list(self.adversary.parameters())
        return ({"params": parameters, "lr": self.config.adversary_rate, "optimizer": "adamw", "maximize": True},)

    def _expert(self, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor]:
        """An expert's first and last parameters."""
        expert = draw_trajectory(self.experts, self.config.experts.count, generator)
        ends = [self.experts.parameters(expert, epoch).to(like) for epoch in (0, self.experts.num_epochs)]
        if len(ends[0]) != num_parameters(self.network):
            raise InputError(
                f"the experts have {len(ends[0])} parameters and the network of features "
                f"{num_parameters(self.network)}; train experts of this network on these items"
            )
        return ends[0], ends[1]

    def _load(self, values: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(values, self.network.parameters())

    def _features(self, inputs: Tensor, drawn: Any) -> Tensor:
        inputs = inputs if self.augment is None else self.augment.apply(inputs, drawn)
        return F.normalize(self.network.features(inputs), dim=1)

    def _frequencies(self, generator: torch.Generator, like: Tensor) -> Tensor:
        noise = torch.randn(self.config.num_frequencies, self.feature_size, generator=generator).to(like)
        if self.adversary is None:
            return noise
        frequencies: Tensor = self.adversary.to(like.dtype)(noise * self.config.noise_variance**0.5)
        return frequencies

    def _compare(
        self, real: Tensor, real_labels: Tensor, synthetic: Tensor, labels: Tensor, frequencies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to synthetic features; that of the frequencies goes to the adversary.

        Class by class, so that one class's projections exist at a time.
        """
        leaf, places = (
            synthetic.detach().requires_grad_(),
            frequencies.detach().requires_grad_(self.adversary is not None),
        )
        total = torch.zeros((), dtype=leaf.dtype, device=leaf.device)
        for label in range(self.num_classes):
            pair = real[real_labels == label], leaf[labels == label]
            loss = self.config.weight * characteristic_distance(*pair, places, self.config.amplitude)
            loss.backward()
            total += loss.detach()
        if places.grad is not None:
            frequencies.backward(places.grad)
        assert leaf.grad is not None
        return total, leaf.grad

    def _calibrate(
        self, rendered: Tensor, synthetic: Synthetic, items: Tensor, drawn: Any
    ) -> tuple[float, Tensor, Tensor]:
        """The weighted cross-entropy of all items, and its gradients with respect to the items and to their labels."""
        targets = class_probabilities(synthetic, self.num_classes, rendered.dtype).detach().requires_grad_()
        total, gradients = 0.0, list[Tensor]()
        for chunk, places in zip(rendered.split(self.chunk_items), items.split(self.chunk_items), strict=True):
            leaf = chunk.detach().requires_grad_()
            inputs = leaf if self.augment is None else self.augment.apply(leaf, drawn)
            entropies = -(targets[places] * self.network(inputs).log_softmax(1)).sum(1)
            loss = self.config.calibration * entropies.sum() / len(rendered) * self.num_classes
            loss.backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad)
            total += float(loss.detach())
        assert targets.grad is not None
        return total, torch.cat(gradients), targets.grad


def _characteristic(features: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part, [t]."""
    projections = frequencies @ features.T
    return projections.cos().mean(1), projections.sin().mean(1)


def _feature_size(network: Network) -> int:
    shell = deepcopy(network).to("meta")
    return int(shell.features(torch.empty(1, *network.input_shape, device="meta")).shape[1])
