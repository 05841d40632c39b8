"""Mean-feature matching against its literal transcription."""

from __future__ import annotations

import pytest
import torch
from tests.reference.mean_features import literal_convnet_features, literal_loss
from torch import Tensor

from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.sources import load_images
from attar.methods.labels import class_major_labels
from attar.methods.objectives import features
from attar.methods.objectives.features import Features, FeaturesConfig, class_means
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig, initialise_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems


def _unequal_real(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 12)
    return torch.randn(len(labels), 4, 8, 8, generator=generator(0, "real"), dtype=dtype), labels


def _literal(config: FeaturesConfig, real: RealItems, codes: Tensor, labels: Tensor, step: torch.Generator) -> Tensor:
    """The objective's own draws, then the paper's loop in float64."""
    seed = int(torch.randint(2**62, (1,), generator=step))
    network = build_network(config.network, real.shape, real.num_classes)
    initialise_parameters(network, generator(seed, "network"))
    indices, drawn = real.class_batches(config.real_batch_size, step)
    parameters = {}
    for block in range(config.network.depth or 0):
        for new, old in (("weight", "convolution.weight"), ("bias", "convolution.bias")):
            parameters[f"{new}{block}"] = network.get_parameter(f"blocks.{block}.{old}").detach().double()
        for new, old in (("scale", "norm.weight"), ("shift", "norm.bias")):
            parameters[f"{new}{block}"] = network.get_parameter(f"blocks.{block}.{old}").detach().double()
    embed = literal_convnet_features(parameters, config.network.depth or 0)
    items = real.gather(indices).double()
    by_class = [items[drawn == index] for index in range(real.num_classes)]
    return literal_loss(embed, by_class, [codes[labels == index] for index in range(real.num_classes)])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_and_gradient_agree_with_the_literal_loop(chunk: int) -> None:
    real_codes, real_labels = _unequal_real()
    real = RealItems(real_labels, 3, codes=real_codes)
    labels = class_major_labels(3, 2)
    start = torch.randn(6, 4, 8, 8, generator=generator(1, "codes"))
    config = FeaturesConfig(
        network=NetworkConfig(depth=2, width=16), real_batch_size=8, chunk_items=chunk, precision="float32"
    )
    synthetic = Codes(_codec(), start, labels)
    figures = Features(config, Context(real.shape, 3)).accumulate(synthetic, real, generator(5, "step"))
    oracle_codes = start.double().requires_grad_()
    oracle = _literal(config, real, oracle_codes, labels, generator(5, "step"))
    oracle.backward()
    assert figures["loss"] == pytest.approx(float(oracle.detach()), rel=1e-5)
    assert synthetic.codes.grad is not None
    torch.testing.assert_close(synthetic.codes.grad.double(), oracle_codes.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("norm", "largest"), [("instance", 4), ("batch", 24)])
def test_large_maps_go_through_in_parts_on_a_cpu(norm: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the same; with batch norm items depend on one another and stay together."""
    real = RealItems(class_major_labels(3, 8), 3, codes=torch.randn(24, 4, 8, 8, generator=generator(1, "codes")))
    network = NetworkConfig(depth=2, width=16, norm=norm)
    config = FeaturesConfig(network=network, real_batch_size=8, precision="float32")
    seen: list[int] = []

    def loss() -> float:
        objective = Features(config, Context(real.shape, 3))
        forward = objective._fast_features
        objective._fast_features = lambda inputs: (seen.append(len(inputs)), forward(inputs))[1]
        synthetic = Codes(_codec(), torch.ones(6, 4, 8, 8), class_major_labels(3, 2))
        return objective.accumulate(synthetic, real, generator(5, "step"))["loss"]

    whole = loss()
    values_of_an_item = 16 * (64 + 16)  # of both norms
    monkeypatch.setattr(features, "_CACHED_BYTES", 4 * 4 * values_of_an_item + 1)
    assert loss() == pytest.approx(whole, rel=1e-6)
    assert seen[0] == 24 and max(seen[1:]) == largest and sum(seen[1:]) == 24


def test_siamese_augmentation_is_shared() -> None:
    """Synthetic items equal to the real ones have no distance, whatever the augmentation draws."""
    images = torch.randn(6, 3, 16, 16, generator=generator(2, "images"))
    labels = class_major_labels(3, 2)
    config = FeaturesConfig(
        network=NetworkConfig(depth=2, width=8), real_batch_size=2, augmentation=DsaConfig(), precision="float32"
    )
    objective = Features(config, Context((3, 16, 16), 3, augmentation=Dsa(DsaConfig())))
    real = RealItems(labels, 3, codes=images)
    synthetic = Codes(_codec(), images, labels)
    for step in range(8):
        synthetic.codes.grad = None
        assert objective.accumulate(synthetic, real, generator(step, "step"))["loss"] < 1e-8
    other = Codes(_codec(), images.flip(0), labels)
    assert objective.accumulate(other, real, generator(0, "step"))["loss"] > 1e-3


def test_class_means_allow_classes_of_different_size() -> None:
    features = torch.tensor([[1.0], [3.0], [10.0]])
    assert class_means(features, torch.tensor([0, 0, 1]), 2).tolist() == [[2.0], [10.0]]


def test_class_batches_draw_distinct_members_of_every_class() -> None:
    codes, labels = _unequal_real()
    real = RealItems(labels, 3, codes=codes)
    indices, drawn = real.class_batches(6, generator(0, "draw"))
    assert drawn.tolist() == [0] * 6 + [1] * 5 + [2] * 6
    assert len(set(indices.tolist())) == len(indices)
    assert torch.equal(labels[indices], drawn)
    hits = torch.zeros(len(labels))
    for seed in range(300):
        hits[real.class_batches(3, generator(seed, "draw"))[0]] += 1
    expected = torch.tensor([3 / 9] * 9 + [3 / 5] * 5 + [3 / 12] * 12)
    assert (hits / 300 - expected).abs().max() < 0.12


def test_uint8_images_and_their_codes_are_the_same_real_items() -> None:
    train = load_images("digits").train
    codec = fit_codec(PixelsConfig(), train)
    held = RealItems(train.labels, 10, images=train, codec=codec)
    encoded = RealItems(train.labels, 10, codes=codec.encode(train.images.float() / 255))
    which = torch.tensor([3, 1, 700])
    torch.testing.assert_close(held.gather(which), encoded.gather(which))
    assert held.shape == encoded.shape == (1, 8, 8)


def _codec():  # type: ignore[no-untyped-def]
    """A codec that these tests never call: the items are matched as codes."""
    return fit_codec(PixelsConfig(), load_images("digits").train)
