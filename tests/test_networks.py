"""Networks: sizes, shapes, names, initial values, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.models.networks.network import NetworkConfig, depth_for, initialise_parameters, num_parameters
from attar.models.networks.registry import build_network, network_from_text, network_shell


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
    texts = ("convnet", "convnet:d3w64-batch", "resnet18", "resnet18:batch", "convnet:nonorm-max-sigmoid")
    for text in (*texts, "vgg11", "vgg11:batch", "alexnet", "alexnet:batch"):
        config = network_from_text(text)
        assert config.name == text and network_from_text(config.name) == config
        assert NetworkConfig.model_validate_json(config.model_dump_json()) == config
    assert network_from_text("alexnet").norm == NetworkConfig(kind="alexnet").norm == "none"
    assert network_from_text("alexnet:nonorm").name == "alexnet"
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
        ("vgg", "did you mean 'vgg11'"),
        ("vgg11:layer", "take 'instance' or 'batch'"),
        ("vgg11:nonorm", "take 'instance' or 'batch'"),
        ("alexnet:instance", "take 'none' or 'batch'"),
        ("alexnet:w64", "alexnet has no width"),
        ("vgg11:d3", "vgg11 has no depth"),
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


def test_torchvisions_state_dict_is_loaded_back_in_its_order() -> None:
    first, second = (
        build_network(network_from_text("mobilenet_v2"), (3, 32, 32), 10, generator(seed)) for seed in (0, 1)
    )
    state = first.state_dict()
    names = list(state)
    assert names[0] == "features.0.0.weight" and names[-1] == "classifier.1.bias"
    second.load_state_dict(state)
    inputs = torch.randn(2, 3, 32, 32, generator=generator(0))
    assert torch.equal(first.eval()(inputs), second.eval()(inputs))
    assert state.keys() == first.state_dict().keys(), "loading leaves the given state as it was"


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("mobilenet_v2", [32] * 3 + [16] * 3 + [8] * 7 + [4] * 5),
        ("mobilenet_v2:imagenet", [16] + [8] * 2 + [4] * 3 + [2] * 7 + [1] * 5),
        ("resnet18:batch", [32, 16, 8, 4]),
        ("resnet18:imagenet-batch", [8, 4, 2, 1]),
        ("convnet:w4-batch", [32, 16, 8]),
        ("vgg11:batch", [32, 16, 8, 8, 4, 4, 2, 2]),
        ("alexnet", [32, 16, 8, 8, 8]),
    ],
)
def test_maps_are_those_of_every_block_before_its_pooling(text: str, sides: list[int]) -> None:
    network = network_shell(network_from_text(text), (3, 32, 32), 5)
    inputs = torch.empty(2, 3, 32, 32, device="meta")
    found = list(network.block_maps(inputs))
    assert [each.shape[2] for each in found] == sides and all(each.shape[2] == each.shape[3] for each in found)
    assert len(found) == network.num_blocks
    for layer in (0, 1, -2, -network.num_blocks):
        assert network.maps(inputs, layer).shape == found[layer].shape


@pytest.mark.parametrize(
    ("text", "pool"),
    [
        ("convnet:w6-batch", torch.nn.AvgPool2d(2)),
        ("convnet:w6-max-gelu", torch.nn.MaxPool2d(2)),
        ("convnet:d2w6-nopool", torch.nn.Identity()),
        ("resnet18:batch", torch.nn.AdaptiveAvgPool2d(1)),
        ("resnet18:imagenet-batch", torch.nn.AdaptiveAvgPool2d(1)),
        ("mobilenet_v2", torch.nn.AdaptiveAvgPool2d(1)),
        ("vgg11:batch", torch.nn.MaxPool2d(2)),
        ("alexnet:batch", torch.nn.MaxPool2d(2)),
    ],
)
def test_the_last_map_pooled_is_the_features(text: str, pool: torch.nn.Module) -> None:
    network = build_network(network_from_text(text), (3, 32, 32), 5, generator(0)).eval()
    inputs = torch.randn(2, 3, 32, 32, generator=generator(1))
    maps = network.maps(inputs, -1)
    assert torch.equal(maps, network.maps(inputs, network.num_blocks - 1)) and maps.std() > 0
    assert torch.equal(pool(maps).flatten(1), network.features(inputs))


def test_a_convnets_maps_are_after_norm_and_activation() -> None:
    network = build_network(network_from_text("convnet:d2w4-batch"), (3, 8, 8), 5, generator(0)).eval()
    inputs = torch.randn(2, 3, 8, 8, generator=generator(1))
    first, second = network.blocks[0], network.blocks[1]
    maps = first.activation(first.norm(first.convolution(inputs)))
    assert torch.equal(network.maps(inputs, 0), maps)
    assert torch.equal(
        network.maps(inputs, -1), second.activation(second.norm(second.convolution(first.pooling(maps))))
    )


@pytest.mark.parametrize("layer", [3, -4])
def test_maps_of_no_block_are_refused(layer: int) -> None:
    network = build_network(NetworkConfig(width=4), (3, 32, 32), 5)
    with pytest.raises(InputError, match=rf"layer {layer} .* 0 to 2, or from the end -1 to -3"):
        network.maps(torch.zeros(1, 3, 32, 32), layer)


def test_stems_are_named_and_refused_where_there_is_none() -> None:
    for text in ("resnet18:imagenet-batch", "mobilenet_v2", "mobilenet_v2:imagenet", "resnet18:imagenet"):
        config = network_from_text(text)
        assert config.name == text and network_from_text(config.name) == config
    assert network_from_text("resnet18:batch-small") == network_from_text("resnet18:batch")
    assert network_from_text("mobilenet_v2").norm == NetworkConfig(kind="mobilenet_v2").norm == "batch"
    for text, message in {
        "convnet:imagenet": "convnet has no stem to choose; leave it out, or take kind 'resnet18' or 'resnet50' or ",
        "vgg11:imagenet": "vgg11 has no stem",
        "mobilenet_v2:instance": "take 'batch'",
        "mobilenet_v2:w32": "mobilenet_v2 has no width to choose; leave it out, or take kind 'convnet'",
        "mobilenet": "did you mean 'mobilenet_v2'",
    }.items():
        with pytest.raises(InputError, match=message):
            network_from_text(text)


def test_the_imagenet_stem_with_instance_norm_needs_larger_inputs() -> None:
    with pytest.raises(InputError, match="'resnet18:imagenet-batch', or inputs larger than 32 pixels"):
        build_network(network_from_text("resnet18:imagenet"), (3, 32, 32), 10)
    network = build_network(network_from_text("resnet18:imagenet"), (3, 33, 33), 10).eval()
    logits = network(torch.randn(2, 3, 33, 33, generator=generator(0)))
    assert not torch.allclose(logits[0], logits[1])


def test_mobilenet_learns_at_every_parameter_and_depends_on_no_global_state() -> None:
    network = build_network(network_from_text("mobilenet_v2"), (1, 8, 8), 4, generator(0))
    inputs = torch.randn(6, 1, 8, 8, generator=generator(1)).requires_grad_()
    logits = network(inputs)
    gradients = torch.autograd.grad(logits.square().sum(), [inputs, *network.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients) and gradients[0].abs().max() > 0
    assert torch.equal(logits, network(inputs)), "no dropout, whose draws would be the global generator's"
