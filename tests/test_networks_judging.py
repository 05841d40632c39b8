"""ResNet-50, ShuffleNetV2 and ConvNeXt-Tiny, all kinds from 28 to 256 pixels, and groups of networks."""

from __future__ import annotations

import pytest
import torch

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.models.networks.network import NORMS, NetworkConfig, initialise_parameters, num_parameters
from attar.models.networks.registry import GROUPS, build_network, network_from_text, network_shell, networks_named
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig

NEW = ("resnet50", "shufflenet_v2", "convnext_tiny")

# Published counts: torchvision's documentation of each model's weights, at 1000 classes.
COUNTS = {
    "resnet18:imagenet-batch": 11_689_512,
    "resnet50:imagenet": 25_557_032,
    "mobilenet_v2:imagenet": 3_504_872,
    "shufflenet_v2:imagenet": 2_278_604,
    "convnext_tiny:imagenet": 28_589_128,
}

# Keys with their shapes in torchvision 0.28, and how many there are in all.
SHAPES: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {
    "resnet18:imagenet-batch": (
        122,
        {
            "conv1.weight": (64, 3, 7, 7),
            "bn1.running_var": (64,),
            "bn1.num_batches_tracked": (),
            "layer1.0.conv1.weight": (64, 64, 3, 3),
            "layer1.1.bn2.weight": (64,),
            "layer2.0.conv1.weight": (128, 64, 3, 3),
            "layer2.0.downsample.0.weight": (128, 64, 1, 1),
            "layer2.0.downsample.1.running_mean": (128,),
            "layer3.0.downsample.0.weight": (256, 128, 1, 1),
            "layer4.0.downsample.0.weight": (512, 256, 1, 1),
            "layer4.1.conv2.weight": (512, 512, 3, 3),
            "fc.weight": (1000, 512),
            "fc.bias": (1000,),
        },
    ),
    "mobilenet_v2:imagenet": (
        314,
        {
            "features.0.0.weight": (32, 3, 3, 3),
            "features.0.1.running_mean": (32,),
            "features.1.conv.0.0.weight": (32, 1, 3, 3),
            "features.1.conv.0.1.weight": (32,),
            "features.1.conv.1.weight": (16, 32, 1, 1),
            "features.1.conv.2.bias": (16,),
            "features.2.conv.0.0.weight": (96, 16, 1, 1),
            "features.2.conv.1.0.weight": (96, 1, 3, 3),
            "features.2.conv.1.1.num_batches_tracked": (),
            "features.2.conv.2.weight": (24, 96, 1, 1),
            "features.2.conv.3.running_var": (24,),
            "features.4.conv.2.weight": (32, 144, 1, 1),
            "features.7.conv.2.weight": (64, 192, 1, 1),
            "features.11.conv.2.weight": (96, 384, 1, 1),
            "features.14.conv.2.weight": (160, 576, 1, 1),
            "features.17.conv.0.0.weight": (960, 160, 1, 1),
            "features.17.conv.2.weight": (320, 960, 1, 1),
            "features.18.0.weight": (1280, 320, 1, 1),
            "features.18.1.bias": (1280,),
            "classifier.1.weight": (1000, 1280),
            "classifier.1.bias": (1000,),
        },
    ),
    "resnet50:imagenet": (
        320,
        {
            "conv1.weight": (64, 3, 7, 7),
            "layer1.0.conv1.weight": (64, 64, 1, 1),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer1.2.conv3.weight": (256, 64, 1, 1),
            "layer2.0.conv1.weight": (128, 256, 1, 1),
            "layer2.0.conv2.weight": (128, 128, 3, 3),
            "layer2.3.bn3.running_var": (512,),
            "layer3.5.conv3.weight": (1024, 256, 1, 1),
            "layer4.0.downsample.1.bias": (2048,),
            "layer4.2.bn3.num_batches_tracked": (),
            "fc.weight": (1000, 2048),
        },
    ),
    "shufflenet_v2:imagenet": (
        338,
        {
            "conv1.0.weight": (24, 3, 3, 3),
            "conv1.1.running_mean": (24,),
            "stage2.0.branch1.0.weight": (24, 1, 3, 3),
            "stage2.0.branch1.2.weight": (58, 24, 1, 1),
            "stage2.0.branch2.3.weight": (58, 1, 3, 3),
            "stage2.3.branch2.5.weight": (58, 58, 1, 1),
            "stage3.7.branch2.6.bias": (116,),
            "stage4.3.branch2.0.weight": (232, 232, 1, 1),
            "conv5.0.weight": (1024, 464, 1, 1),
            "fc.bias": (1000,),
        },
    ),
    "convnext_tiny:imagenet": (
        182,
        {
            "features.0.0.weight": (96, 3, 4, 4),
            "features.0.1.weight": (96,),
            "features.1.0.layer_scale": (96, 1, 1),
            "features.1.0.block.0.weight": (96, 1, 7, 7),
            "features.1.2.block.3.weight": (384, 96),
            "features.2.0.bias": (96,),
            "features.2.1.weight": (192, 96, 2, 2),
            "features.5.8.block.5.weight": (384, 1536),
            "features.7.2.block.2.weight": (768,),
            "classifier.0.weight": (768,),
            "classifier.2.weight": (1000, 768),
        },
    ),
}


@pytest.mark.parametrize("text", COUNTS)
def test_the_published_numbers_of_parameters(text: str) -> None:
    network = network_shell(network_from_text(text), (3, 224, 224), 1000)
    assert num_parameters(network) == COUNTS[text]


@pytest.mark.parametrize("text", SHAPES)
def test_keys_and_shapes_are_torchvisions(text: str) -> None:
    count, shapes = SHAPES[text]
    network = network_shell(network_from_text(text), (3, 224, 224), 1000)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(found) == count and {name: found.get(name) for name in shapes} == shapes
    widths = {"resnet18": 512, "mobilenet_v2": 1280, "resnet50": 2048, "shufflenet_v2": 1024, "convnext_tiny": 768}
    last = network.maps(torch.empty(1, 3, 224, 224, device="meta"), -1)
    assert last.shape[1:] == (widths[network_from_text(text).kind], 7, 7)


@pytest.mark.parametrize("side", [28, 32, *(pytest.param(side, marks=pytest.mark.slow) for side in (64, 128)), 256])
@pytest.mark.parametrize("kind", NORMS)
def test_every_kind_goes_forward_and_backward_from_28_to_256_pixels(kind: str, side: int) -> None:
    """On the meta device: shapes without values, so that 256 pixels cost nothing."""
    network = network_shell(NetworkConfig(kind=kind), (3, side, side), 7)  # type: ignore[arg-type]
    inputs = torch.empty(2, 3, side, side, device="meta", requires_grad=True)
    logits = network(inputs)
    assert logits.shape == (2, 7) and network.features(inputs).shape[0] == 2
    logits.sum().backward()
    assert inputs.grad is not None and inputs.grad.shape == inputs.shape
    assert all(value.grad is not None and value.grad.shape == value.shape for value in network.parameters())


@pytest.mark.parametrize(
    ("kind", "side"), [(kind, side) for kind in NEW for side in (28, 33)] + [("shufflenet_v2", 64)]
)
def test_gradients_are_finite_and_reach_every_parameter_and_the_input(kind: str, side: int) -> None:
    check_gradients(kind, side)


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("text", ["resnet50:imagenet", "shufflenet_v2", "convnext_tiny"])
def test_gradients_are_finite_at_large_sides(text: str, side: int) -> None:
    check_gradients(text, side)


def check_gradients(text: str, side: int) -> None:
    network = build_network(network_from_text(text), (3, side, side), 4, generator(0))
    inputs = torch.randn(2, 3, side, side, generator=generator(1)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(inputs), torch.tensor([0, 3]))
    gradients = torch.autograd.grad(loss, [inputs, *network.parameters()])
    assert all(bool(gradient.isfinite().all()) and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    "text", [*NEW, "resnet50:instance", "vgg11", "vgg11:batch", "alexnet", "alexnet:batch", "vit", "resnet18"]
)
def test_initialising_covers_every_layer_and_depends_on_the_generator_alone(text: str) -> None:
    network = build_network(network_from_text(text), (1, 28, 28), 4, generator(0))
    wanted = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(7)
    state = torch.get_rng_state()
    initialise_parameters(network, generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_convnexts_scales_begin_as_published() -> None:
    state = build_network(NetworkConfig(kind="convnext_tiny"), (3, 16, 16), 4).state_dict()
    scales = [value for name, value in state.items() if name.endswith("layer_scale")]
    assert len(scales) == 18 and all(bool((value == 1e-6).all()) for value in scales)


def test_shufflenet_interleaves_the_halves_of_its_channels() -> None:
    """Channel 2 k of a block's map is channel k of the half that passes through unchanged."""
    network = build_network(NetworkConfig(kind="shufflenet_v2"), (3, 16, 16), 4, generator(0)).eval()
    before, after = (network.maps(torch.randn(1, 3, 16, 16, generator=generator(1)), place) for place in (0, 1))
    assert torch.equal(after[:, ::2], before[:, :58]) and not torch.equal(after[:, 1::2], before[:, 58:])


@pytest.mark.parametrize("text", NEW)
def test_the_last_map_pooled_is_the_features(text: str) -> None:
    network = build_network(network_from_text(text), (3, 32, 32), 5, generator(0)).eval()
    inputs = torch.randn(2, 3, 32, 32, generator=generator(1))
    maps = list(network.block_maps(inputs))
    pooled = maps[-1].mean((2, 3))
    if text == "convnext_tiny":
        pooled = torch.nn.functional.layer_norm(pooled, (768,), eps=1e-6)
    assert len(maps) == network.num_blocks
    torch.testing.assert_close(pooled, network.features(inputs))
    last = next(layer for layer in reversed(list(network.modules())) if isinstance(layer, torch.nn.Linear))
    assert torch.equal(network(inputs), last(network.features(inputs)))


@pytest.mark.parametrize(
    ("text", "side", "message"),
    [
        ("convnext_tiny", 15, "at least 16 x 16"),
        ("convnext_tiny:imagenet", 28, "at least 32 x 32"),
        ("resnet50:instance", 8, "resnet50'"),
        ("vgg11", 31, "at least 32 x 32"),
        ("vgg11", 8, "at least 32 x 32"),
        ("alexnet", 7, "at least 8 x 8"),
    ],
)
def test_inputs_that_cannot_be_seen_are_refused(text: str, side: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(network_from_text(text), (3, side, side), 10)


def test_names_are_read_back_and_norms_are_what_the_field_has() -> None:
    for text in ("resnet50", "resnet50:imagenet-instance", "shufflenet_v2:imagenet", "convnext_tiny"):
        config = network_from_text(text)
        assert config.name == text and network_from_text(config.name) == config
    assert [network_from_text(text).norm for text in NEW] == ["batch", "batch", "layer"]
    with pytest.raises(InputError, match="take 'batch'"):
        network_from_text("shufflenet_v2:instance")


@pytest.mark.parametrize("text", ["convnext_tiny", "resnet50:instance"])
def test_networks_without_batch_norm_come_out_the_same_stacked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow, and in float64: a norm over the 4 pixels of a last map makes much of float32's rounding."""
    monkeypatch.setattr("attar.models.networks.convnext._STAGES", ((8, 1), (12, 1), (16, 2), (24, 1)))
    monkeypatch.setattr("attar.models.networks.resnet._WIDTHS", (4, 6, 8, 12))
    items = FixedItems(torch.randn(4, 1, 16, 16, generator=generator(0)).double(), torch.arange(4) % 2)
    training = TrainingConfig(epochs=1, batch_size=4, learning_rate=0.01)
    inputs = torch.randn(3, 1, 16, 16, generator=generator(1)).double()
    outputs = []
    for mode in ("looped", "stacked"):
        networks = train_networks(network_from_text(text), items, 2, training, [0, 1], mode=mode)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs.append(torch.stack([network(inputs) for network in networks]))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0][0], outputs[0][1])


def test_batch_norm_is_trained_one_network_after_another() -> None:
    items = FixedItems(torch.randn(6, 1, 16, 16, generator=generator(0)), torch.arange(6) % 2)
    training = TrainingConfig(epochs=1, batch_size=6, precision="float32")
    config = NetworkConfig(kind="shufflenet_v2")
    assert len(train_networks(config, items, 2, training, [0, 1])) == 2
    with pytest.raises(InputError, match="looped"):
        train_networks(config, items, 2, training, [0, 1], mode="stacked")


def test_groups_are_the_kinds_and_the_unseen_four() -> None:
    assert [config.kind for config in networks_named("all")] == list(NORMS)
    assert GROUPS["unseen"] == ("alexnet", "vgg11", "resnet18", "vit")
    named = networks_named(["convnet:w32", "unseen", "resnet18"])
    assert [config.name for config in named] == ["convnet:w32", *GROUPS["unseen"]], "each once"


def test_members_that_cannot_see_the_images_are_left_out_and_single_ones_refused() -> None:
    kept = [config.name for config in networks_named("all", (1, 8, 8))]
    assert {"convnet", "alexnet", "mobilenet_v2", "vit"} <= set(kept)
    assert not {"vgg11", "resnet18", "convnext_tiny"} & set(kept)
    assert [config.name for config in networks_named("all", (3, 28, 28))] == list(NORMS)
    with pytest.raises(InputError, match="vgg11 pools five times"):
        networks_named("vgg11", (1, 8, 8))
    with pytest.raises(InputError, match="did you mean 'convnet'"):
        networks_named("convnt")
    with pytest.raises(InputError, match="no network was named"):
        networks_named([])
