"""Training on as from a snapshot, and towards flat minima, against the written-out algorithms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.models.training.snapshots import Snapshot
from reference.training import convnet_logits

NETWORK = NetworkConfig(width=4, depth=1)


def toy_items() -> FixedItems:
    inputs = torch.randn(20, 2, 8, 8, generator=generator(0, "toy"), dtype=torch.float64)
    return FixedItems(inputs, torch.arange(20) % 3)


def literal_sharpness_aware(seed: int, epochs: int, rate: float, radius: float) -> dict[str, Tensor]:
    """Foret et al. 2021, Algorithm 1, with every line written out."""
    items, values = toy_items(), build_network(NETWORK, (2, 8, 8), 3, generator(seed, "network")).state_dict()
    values = {name: value.double() for name, value in values.items()}

    def gradients(at: dict[str, Tensor], part: Tensor) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        loss = torch.nn.functional.cross_entropy(convnet_logits(leaves, items.inputs[part], 1), items.labels[part])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    for epoch in range(epochs):
        for part in torch.randperm(20, generator=generator(seed, "order", epoch)).split(8):
            first = gradients(values, part)
            norm = sum(gradient.square().sum() for gradient in first.values()).sqrt()
            peak = {name: value + radius * first[name] / norm for name, value in values.items()}
            second = gradients(peak, part)
            values = {name: value - rate * second[name] for name, value in values.items()}
    return values


@pytest.mark.parametrize("mode", ["looped", "stacked"])
def test_sharpness_aware_steps_agree_with_the_literal_ones(mode: Any) -> None:
    settings = TrainingConfig(
        epochs=2, batch_size=8, learning_rate=0.1, momentum=0, weight_decay=0, schedule="constant", flat_radius=0.5
    )
    networks = train_networks(NETWORK, toy_items(), 3, settings, [3, 4], mode=mode)
    for seed, network in zip((3, 4), networks, strict=True):
        expected = literal_sharpness_aware(seed, 2, 0.1, 0.5)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)
    plain = settings.model_copy(update={"flat_radius": 0.0})
    (other,) = train_networks(NETWORK, toy_items(), 3, plain, [3])
    assert not torch.allclose(other.classifier.weight, networks[0].classifier.weight, atol=1e-3)


@pytest.mark.parametrize("mode", ["looped", "stacked"])
def test_training_goes_on_from_a_snapshot_bit_for_bit(mode: Any) -> None:
    settings = TrainingConfig(epochs=4, batch_size=8, augmentation=DsaConfig(), milestones=(0.75,))
    seen: list[Snapshot] = []
    unbroken = train_networks(NETWORK, toy_items(), 3, settings, [1, 2], mode=mode, callback=seen.append)
    assert [one.epoch for one in seen] == [0, 1, 2, 3, 4] * (2 if mode == "looped" else 1)
    if mode == "looped":
        pairs = zip(seen[:5], seen[5:], strict=True)
        seen = [
            Snapshot(
                (1, 2),
                a.epoch,
                torch.cat([a.parameters, b.parameters]),
                torch.cat([a.momentum, b.momentum]) if a.epoch else None,
            )
            for a, b in pairs
        ]
    for snapshot in seen:
        resumed = train_networks(NETWORK, toy_items(), 3, settings, [1, 2], mode=mode, start=snapshot)
        for first, second in zip(unbroken, resumed, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert len({tuple(one.parameters[0, :3].tolist()) for one in seen}) == 5, "no snapshot aliases the last values"
    with pytest.raises(ValueError, match="cannot start seeds"):
        train_networks(NETWORK, toy_items(), 3, settings, [2, 3], mode=mode, start=seen[1])


def test_a_given_augmentation_replaces_the_configured_one() -> None:
    drawn: list[bool] = []

    class Negative:
        per_item = False

        def draw(self, batch_size: int, image_shape: Any, generator: torch.Generator, siamese: bool) -> float:
            drawn.append(siamese)
            return -1.0

        def apply(self, images: Tensor, parameters: float) -> Tensor:
            return parameters * images

    settings = TrainingConfig(epochs=1, batch_size=8, augmentation=DsaConfig())
    (network,) = train_networks(NETWORK, toy_items(), 3, settings, [1], augmentation=Negative())
    plain = settings.model_copy(update={"augmentation": None})
    turned = FixedItems(-toy_items().inputs, toy_items().labels)
    (expected,) = train_networks(NETWORK, turned, 3, plain, [1])
    assert torch.equal(network.classifier.weight, expected.classifier.weight) and drawn == [True] * 3
