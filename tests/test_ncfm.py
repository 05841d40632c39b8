"""NCFM: the distance against complex exponentials, the adversary that ascends, calibration, and whole runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from attar.base.errors import InputError
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.methods.labels import class_major_labels
from attar.methods.objectives.characteristic import (
    Characteristic,
    CharacteristicConfig,
    SamplingNetwork,
    characteristic_distance,
)
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from small_sets import digit_images, first_items

NETWORK = NetworkConfig(depth=1, width=4)
SETTINGS: dict[str, Any] = {
    "network": NETWORK,
    "experts": ExpertsConfig(count=2, epochs=3),
    "num_frequencies": 32,
    "real_batch_size": 6,
}
RUN: dict[str, Any] = {
    "steps": 4,
    "objective.network": {"kind": "convnet", "depth": 1, "width": 4},
    "objective.experts": {"count": 2, "epochs": 2},
    "objective.num_frequencies": 16,
    "objective.real_batch_size": 4,
}


class TwoExperts:
    """Two experts in memory, whose first and last parameters are drawn apart."""

    num_experts, num_epochs = 2, 3

    def parameters(self, expert: int, epoch: int) -> Tensor:
        network = build_network(NETWORK, (1, 8, 8), 10, generator(expert, "expert", epoch))
        return parameters_to_vector(network.parameters()).detach()


def items_and_real(count: int = 3) -> tuple[Codes, RealItems]:
    train = digit_images()
    codec = fit_codec(PixelsConfig(), train)
    codes = codec.encode(train.images[first_items(train, count)].float() / 255)
    return Codes(codec, codes, class_major_labels(10, count)), RealItems(train.labels, 10, images=train, codec=codec)


def objective(**changes: Any) -> Characteristic:
    return Characteristic(CharacteristicConfig(**{**SETTINGS, **changes}), Context((1, 8, 8), 10, experts=TwoExperts()))


def reference(real: Tensor, synthetic: Tensor, frequencies: Tensor, amplitude: float) -> Tensor:
    """As the paper writes it: amplitudes and phases of two complex means."""
    one, two = (torch.exp(1j * (frequencies @ x.T)).mean(1) for x in (real, synthetic))
    of_phases = 2 * one.abs() * two.abs() * (1 - torch.cos(one.angle() - two.angle()))
    return (amplitude * (one.abs() - two.abs()) ** 2 + (1 - amplitude) * of_phases).sqrt().mean()


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 1.0])
def test_the_distance_is_that_of_complex_means(amplitude: float) -> None:
    draw = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(size, 5, dtype=torch.float64, generator=draw) for size in (9, 4))
    frequencies = torch.randn(50, 5, dtype=torch.float64, generator=draw)
    found = characteristic_distance(real, synthetic, frequencies, amplitude)
    torch.testing.assert_close(found, reference(real, synthetic, frequencies, amplitude), rtol=1e-6, atol=1e-9)
    if amplitude == 0.5:  # the root is of |Phi_x - Phi_y|^2 / 2
        one, two = (torch.exp(1j * (frequencies @ x.T)).mean(1) for x in (real, synthetic))
        torch.testing.assert_close(found, ((one - two).abs() / 2**0.5).mean(), rtol=1e-6, atol=1e-9)


def test_its_gradient_is_right_and_finite_where_nothing_differs() -> None:
    draw = torch.Generator().manual_seed(1)
    real, synthetic = (torch.randn(size, 3, dtype=torch.float64, generator=draw) for size in (6, 4))
    frequencies = torch.randn(7, 3, dtype=torch.float64, generator=draw)
    assert torch.autograd.gradcheck(
        lambda x, t: characteristic_distance(real, x, t), (synthetic.requires_grad_(), frequencies.requires_grad_())
    )
    same = real.clone().requires_grad_()
    characteristic_distance(real, same, frequencies.detach()).backward()
    assert same.grad is not None and bool(same.grad.isfinite().all())


def test_equal_features_are_as_near_as_the_smallest_root() -> None:
    real = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert float(characteristic_distance(real, real, torch.eye(3, dtype=torch.float64))) <= 1.1e-6


def test_chunks_change_nothing() -> None:
    results = []
    for chunk_items in (1024, 7):
        items, real = items_and_real()
        matcher = objective(chunk_items=chunk_items)
        figures = matcher.accumulate(items.double(), real, generator(0, "step", 0))
        assert items.codes.grad is not None and matcher.adversary is not None
        gradients = [value.grad for value in matcher.adversary.parameters()]
        results.append((figures["loss"], items.codes.grad, gradients))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-8)
    for one, two in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-8)


def test_the_adversary_finds_frequencies_where_items_differ_more() -> None:
    """With the items held, its own steps raise the discrepancy above that of frequencies drawn at random."""
    items, real = items_and_real()
    matcher = objective(calibration=0.0, adversary_rate=1e-2)
    (group,) = matcher.parameter_groups()
    assert group["maximize"] and group["optimizer"] == "adamw"
    optimizer = torch.optim.AdamW(group["params"], lr=1e-2, maximize=True)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(matcher.accumulate(items, real, generator(0, "step", 0))["loss"])
        optimizer.step()
    assert losses[-1] > 1.2 * losses[0]
    assert SamplingNetwork(6)(torch.randn(8, 6)).abs().max() < 1


def test_calibration_is_the_cross_entropy_of_the_last_expert() -> None:
    items, real = items_and_real()
    figures = objective(calibration=2.0).accumulate(items, real, generator(0, "step", 0))
    network = build_network(NETWORK, (1, 8, 8), 10)
    entropies = []
    for expert in (0, 1):
        torch.nn.utils.vector_to_parameters(TwoExperts().parameters(expert, 3), network.parameters())
        entropies.append(2 * 10 * float(torch.nn.functional.cross_entropy(network(items.codes.detach()), items.labels)))
    assert min(abs(figures["calibration"] - entropy) for entropy in entropies) < 1e-4
    alone = objective(calibration=0.0).accumulate(items, real, generator(0, "step", 0))
    assert figures["loss"] - figures["calibration"] == pytest.approx(alone["loss"], rel=1e-5)
    assert "calibration" not in alone


def test_a_run_ends_in_the_same_file_however_often_it_stops(tmp_path: Path) -> None:
    whole = distill("digits", "ncfm", "1ipc", settings=RUN, out=tmp_path / "a.attar.safetensors")
    again = distill("digits", "ncfm", "1ipc", settings=RUN, out=tmp_path / "b.attar.safetensors", checkpoint_steps=1)
    assert (tmp_path / "a.attar.safetensors").read_bytes() == (tmp_path / "b.attar.safetensors").read_bytes()
    assert len(whole) == 40 and whole.num_training_items == 40 and whole.soft_labels is not None
    torch.testing.assert_close(whole.soft_labels.sum(1), torch.ones(40))
    assert torch.equal(DistilledSet.load(tmp_path / "a.attar.safetensors").images(), again.images())


def test_a_resumed_adversary_goes_on_where_it_was(tmp_path: Path) -> None:
    """Items, the adversary and both optimizers' moments are part of the saved state."""

    class StopAfterTwo(Silent):
        steps = 0

        def advance(self, count: int = 1, **figures: float) -> None:
            self.steps += "calibration" in figures
            if self.steps == 2:
                self.steps += 1
                os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "a.attar.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distill("digits", "ncfm", "1ipc", settings=RUN, out=out, progress=StopAfterTwo())
    resumed = distill("digits", "ncfm", "1ipc", settings=RUN, out=out)
    whole = distill("digits", "ncfm", "1ipc", settings=RUN)
    assert torch.equal(resumed.images(), whole.images())


def test_what_it_cannot_be_given_is_refused() -> None:
    with pytest.raises(ValueError, match="batch norm"):
        CharacteristicConfig(network=NetworkConfig(norm="batch"))
    with pytest.raises(InputError, match="was given none"):
        Characteristic(CharacteristicConfig(**SETTINGS), Context((1, 8, 8), 10))
    none = TwoExperts()
    none.num_experts = 0
    items, real = items_and_real()
    matcher = Characteristic(CharacteristicConfig(**SETTINGS), Context((1, 8, 8), 10, experts=none))
    with pytest.raises(InputError, match="there are no experts to match"):
        matcher.accumulate(items, real, generator(0, "step", 0))


def test_the_published_settings() -> None:
    made = recipe("ncfm-cifar10-ipc1")
    settings = made.objective.model_dump()
    assert (settings["num_frequencies"], settings["real_batch_size"], settings["experts"]["count"]) == (4096, 1024, 20)
    assert made.steps == 20_000 and made.parameterization.model_dump()["grid"] == 2
