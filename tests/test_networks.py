"""Networks: sizes, shapes, names, initial values, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from attar.errors import InputError
from attar.networks import (
    NetworkConfig,
    build_network,
    depth_for,
    initialise_parameters,
    network_from_text,
    num_parameters,
)
from attar.randomness import generator


def test_convnet_has_the_fields_number_of_parameters() -> None:
    network = build_network(NetworkConfig(), (3, 32, 32), 10)
    assert num_parameters(network) == 320_010
    assert network.features(torch.zeros(2, 3, 32, 32)).shape == (2, 2048)


def test_resnet18_has_torchvisions_keys_and_the_known_size() -> None:
    network = build_network(NetworkConfig(kind="resnet18"), (3, 32, 32), 10)
    assert num_parameters(network) == 11_173_962
    keys = set(network.state_dict())
    assert {"conv1.weight", "bn1.bias", "layer1.0.conv2.weight", "layer4.0.downsample.1.weight", "fc.bias"} <= keys
    assert "layer1.0.downsample.0.weight" not in keys and network.features(torch.zeros(1, 3, 20, 17)).shape == (1, 512)


@pytest.mark.parametrize(
    ("resolution", "depth"), [(2, 1), (8, 1), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5), (256, 6), (512, 7)]
)
def test_depth_follows_the_resolution(resolution: int, depth: int) -> None:
    assert depth_for(resolution) == depth


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 17, 33), (4, 2, 2), (3, 96, 40)])
@pytest.mark.parametrize(
    "text",
    ["convnet:w8", "convnet:w8-batch", "convnet:w8-layer-max", "convnet:w8-group-gelu", "convnet:w6-nonorm-nopool"],
)
def test_any_input_size_is_accepted(text: str, shape: tuple[int, int, int]) -> None:
    network = build_network(network_from_text(text), shape, 5)
    inputs = torch.randn(3, *shape, generator=generator(0))
    assert network(inputs).shape == (3, 5)
    assert torch.equal(network.eval()(inputs), network.classifier(network.features(inputs)))


def test_inputs_of_28_pixels_end_like_32() -> None:
    sizes = {side: build_network(NetworkConfig(width=4), (1, side, side), 10) for side in (28, 32)}
    assert num_parameters(sizes[28]) == num_parameters(sizes[32])


def test_too_deep_networks_are_refused_with_the_largest_depth() -> None:
    with pytest.raises(InputError, match="the largest depth here is 3"):
        build_network(NetworkConfig(depth=4), (3, 8, 8), 10)
    assert build_network(NetworkConfig(depth=3, width=4), (3, 8, 8), 10)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_resnet_with_instance_norm_refuses_inputs_it_cannot_see() -> None:
    with pytest.raises(InputError, match="resnet18:batch"):
        build_network(network_from_text("resnet18"), (1, 8, 8), 10)
    network = build_network(network_from_text("resnet18"), (1, 9, 9), 10).eval()
    logits = network(torch.randn(2, 1, 9, 9, generator=generator(0)))
    assert not torch.allclose(logits[0], logits[1])


def test_short_names_are_read_back() -> None:
    for text in ("convnet", "convnet:d3w64-batch", "resnet18", "resnet18:batch", "convnet:nonorm-max-sigmoid"):
        config = network_from_text(text)
        assert config.name == text and network_from_text(config.name) == config
    assert network_from_text("resnet18-batch") == NetworkConfig(kind="resnet18", norm="batch")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convnt", "did you mean 'convnet'"),
        ("convnet:bach", "did you mean 'batch'"),
        ("resnet18:d3", "resnet18 has no depth"),
        ("resnet18:layer", "'instance' or 'batch'"),
        ("convnet:d3-d4", "sets depth twice"),
        ("convnet:d0", "depth"),
        ("", "unknown network"),
    ],
)
def test_bad_names_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        network_from_text(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["convnet:d2w64", "resnet18:batch"])
def test_initial_values_follow_pytorchs_law(text: str) -> None:
    network = build_network(network_from_text(text), (3, 16, 16), 10, generator(0))
    checked = 0
    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            fresh = type(layer)(*_arguments(layer))
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert layer.weight.abs().max() <= bound and fresh.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            checked += 1
    assert checked >= 3


def _arguments(layer: torch.nn.Conv2d | torch.nn.Linear) -> tuple[int, ...]:
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size[0]


def test_initialising_again_is_in_place_and_forgets_everything() -> None:
    network = build_network(network_from_text("convnet:w8-batch"), (3, 16, 16), 4, generator(7))
    wanted = {name: value.clone() for name, value in network.state_dict().items()}
    places = [value.data_ptr() for value in network.state_dict().values()]
    network(torch.randn(4, 3, 16, 16, generator=generator(1)))
    initialise_parameters(network, generator(8))
    assert not torch.equal(network.state_dict()["classifier.weight"], wanted["classifier.weight"])
    initialise_parameters(network, generator(7))
    assert places == [value.data_ptr() for value in network.state_dict().values()]
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_initial_values_do_not_depend_on_format_precision_or_global_state() -> None:
    plain = build_network(NetworkConfig(width=8), (3, 16, 16), 4, generator(7))
    other = build_network(NetworkConfig(width=8), (3, 16, 16), 4).double().to(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    initialise_parameters(other, generator(7))
    build_network(NetworkConfig(width=8), (3, 16, 16), 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a.double(), b)
        for a, b in zip(plain.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_layers_without_a_known_law_are_refused() -> None:
    with pytest.raises(ValueError, match="PReLU"):
        initialise_parameters(torch.nn.Sequential(torch.nn.PReLU()), generator(0))
