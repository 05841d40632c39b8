"""Characteristic functions: those of real and synthetic features are made to agree at learned frequencies (NCFM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attar.base.randomness import generator as make_generator
from attar.base.shapes import Float
from attar.methods.objectives.experts import Drawn, ExpertFeatures, ExpertFeaturesConfig
from attar.methods.objectives.objective import VALUE_BYTES, Context, Synthetic, class_probabilities, values_of_layer
from attar.models.networks.network import Network, initialise_parameters
from attar.models.real_items import RealItems

SMALLEST = 1e-12
"""Square roots are taken of no less, so that their gradients stay finite; the official code's number."""


class CharacteristicConfig(ExpertFeaturesConfig):
    """Settings of matching by the characteristic function discrepancy.

    Args:
        num_frequencies: T, frequencies t of a step.
        amplitude: weight of the amplitudes' differences against that of the phases, 0 to 1.
        adversary_rate: of the network that proposes frequencies, by AdamW upwards; 0: frequencies are N(0, I).
        noise_variance: of what that network is fed with.
        calibration: weight of the cross-entropy that a trained expert gives the items; 0 leaves it out.
        weight: factor of the discrepancy (300 in the official code).
    """

    kind: Literal["characteristic"] = "characteristic"
    num_frequencies: int = Field(default=4096, ge=1)
    amplitude: float = Field(default=0.5, ge=0, le=1)
    adversary_rate: float = Field(default=1e-3, ge=0)
    noise_variance: float = Field(default=0.5, gt=0)
    calibration: float = Field(default=1.0, ge=0)
    weight: float = Field(default=300.0, gt=0)

    def build(self, context: Context) -> Characteristic:
        return Characteristic(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 4  # both ends of an expert, their mixture, and the mixture in the network

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """Features with gradients, frequencies with theirs and the adversary's graph, and one class's projections."""
        size, num_rendered = values_of_layer(network), self.samples * num_items
        num_real = self.real_batch_size * context.num_classes
        frequencies = (2 + 9 * bool(self.adversary_rate)) * self.num_frequencies * size
        projections = 4 * self.num_frequencies * (num_real + num_rendered) // context.num_classes
        adversary = 12 * size * size * bool(self.adversary_rate)
        features = self.bytes_of_features(size, context, num_items)
        return {"features": features + VALUE_BYTES * (frequencies + projections + adversary)}


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


class Characteristic(ExpertFeatures):
    """NCFM's objective in whatever space the items live: a game about characteristic functions of features.

        min_items max_psi  weight sum_c C(f(real items of c), f(synthetic items of c); t ~ psi) + calibration CE

    f gives normalised features of an expert at a random point of the line from its first to its last parameters. The
    frequencies t come from a small network psi that learns, by the same loss upwards, where the two differ. CE is the
    cross-entropy, with the items' labels, that the expert in its last state gives the items.

    Source: Wang et al. 2025 (NCFM), section 3 and Algorithm 1; condenser/ of its code.
    Deviation: items and psi take their steps at once, of the same loss; the official code lets psi follow after each
        class. One draw of the augmentation, of f and of the frequencies serves all classes of a step.
    """

    config: CharacteristicConfig

    def __init__(self, config: CharacteristicConfig, context: Context) -> None:
        super().__init__(config, context)
        self.feature_size = values_of_layer(self.network)
        self.adversary: SamplingNetwork | None = None
        if config.adversary_rate:
            self.adversary = SamplingNetwork(self.feature_size)
            draw = make_generator(config.experts.seed, "sampling network")
            for layer in self.adversary.modules():
                if isinstance(layer, nn.Linear):
                    initialise_parameters(layer, draw)
            self.adversary.to(context.device)

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        drawn = self.draw(synthetic, real, generator)
        first, last = self._ends(drawn)
        self.load(torch.lerp(first, last, float(torch.rand((), generator=drawn.generator("mixture")))))
        target, labels = self.real_features(drawn, real)
        frequencies = self._frequencies(drawn)

        def compare(features: Tensor) -> tuple[Tensor, Tensor]:
            return self._compare(target, labels.to(target.device), features, synthetic.labels[drawn.items], frequencies)

        loss, gradient = self.gradient(drawn, compare)
        figures = {"loss": float(loss)}
        of_labels = None
        if self.config.calibration:
            self.load(last)
            figures["calibration"], more, of_labels = self._calibrate(drawn, synthetic)
            figures["loss"] += figures["calibration"]
            gradient = gradient + more
        drawn.rendered.backward(gradient)
        if of_labels is not None and synthetic.soft_labels is not None and synthetic.soft_labels.requires_grad:
            class_probabilities(synthetic, self.num_classes).backward(of_labels)
        return figures

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        if self.adversary is None:
            return ()
        parameters = list(self.adversary.parameters())
        return ({"params": parameters, "lr": self.config.adversary_rate, "optimizer": "adamw", "maximize": True},)

    def features(self, inputs: Tensor) -> Tensor:
        return F.normalize(super().features(inputs), dim=1)

    def _ends(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """An expert's first and last parameters."""
        expert, like = self.draw_expert(drawn.generator("expert")), drawn.rendered
        last = self.experts.num_epochs
        return self.expert_parameters(expert, 0, like), self.expert_parameters(expert, last, like)

    def _frequencies(self, drawn: Drawn) -> Tensor:
        shape, like = (self.config.num_frequencies, self.feature_size), drawn.rendered
        noise = torch.randn(shape, generator=drawn.generator("frequencies")).to(like)
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
        leaf = synthetic.detach().requires_grad_()
        places = frequencies.detach().requires_grad_(self.adversary is not None)
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

    def _calibrate(self, drawn: Drawn, synthetic: Synthetic) -> tuple[float, Tensor, Tensor]:
        """The weighted cross-entropy of all items, and its gradients with respect to the items and to their labels."""
        rendered = drawn.rendered
        targets = class_probabilities(synthetic, self.num_classes, rendered.dtype).detach().requires_grad_()
        total, gradients = 0.0, list[Tensor]()
        for chunk, places in zip(rendered.split(self.chunk_items), drawn.items.split(self.chunk_items), strict=True):
            leaf = chunk.detach().requires_grad_()
            inputs = self.augmented(leaf, drawn.views)
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
