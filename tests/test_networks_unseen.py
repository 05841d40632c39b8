"""VGG-11, AlexNet and ViT, the unseen architectures: sizes, shapes, names, gradients, initial values."""

from __future__ import annotations

import pytest
import torch

from attar.base.randomness import generator
from attar.models.networks.network import num_parameters
from attar.models.networks.registry import build_network, network_from_text, network_shell

# Convolutions with their biases, of three-channel inputs, written out.
VGG11 = (
    (3 * 9 + 1) * 64
    + (64 * 9 + 1) * 128
    + (128 * 9 + 1) * 256
    + (256 * 9 + 1) * 256
    + (256 * 9 + 1) * 512
    + 3 * (512 * 9 + 1) * 512
)
VGG11_NORMS = 2 * (64 + 128 + 2 * 256 + 4 * 512)
ALEXNET = (3 * 25 + 1) * 128 + (128 * 25 + 1) * 192 + (192 * 9 + 1) * 256 + (256 * 9 + 1) * 192 + (192 * 9 + 1) * 192
ALEXNET_NORMS = 2 * (128 + 192 + 256 + 192 + 192)


@pytest.mark.parametrize(
    ("text", "side", "count"),
    [
        ("vgg11", 32, VGG11 + VGG11_NORMS + 512 * 10 + 10),
        ("vgg11:batch", 64, VGG11 + VGG11_NORMS + 512 * 4 * 10 + 10),
        ("alexnet", 32, ALEXNET + 192 * 16 * 10 + 10),
        ("alexnet:batch", 64, ALEXNET + ALEXNET_NORMS + 192 * 64 * 10 + 10),
    ],
)
def test_sizes_are_those_computed_by_hand(text: str, side: int, count: int) -> None:
    assert num_parameters(build_network(network_from_text(text), (3, side, side), 10)) == count


def test_the_known_sizes_at_32_pixels() -> None:
    known = {"vgg11": 9_231_114, "alexnet": 1_872_202}
    for text, count in known.items():
        assert num_parameters(build_network(network_from_text(text), (3, 32, 32), 10)) == count


@pytest.mark.parametrize(
    ("shape", "vgg11", "alexnet"),
    [
        ((1, 28, 28), 512, 192 * 16),
        ((3, 32, 32), 512, 192 * 16),
        ((3, 64, 64), 512 * 4, 192 * 64),
        ((3, 128, 128), 512 * 16, 192 * 256),
        ((3, 97, 63), 512 * 3, 192 * 12 * 7),
    ],
)
def test_features_follow_the_input(shape: tuple[int, int, int], vgg11: int, alexnet: int) -> None:
    inputs = torch.randn(2, *shape, generator=generator(0))
    for text, num_features in {"vgg11": vgg11, "alexnet": alexnet}.items():
        network = build_network(network_from_text(text), shape, 5)
        features = network.features(inputs)
        assert features.shape == (2, num_features)
        assert network(inputs).shape == (2, 5) and features.std(0).max() > 0


def test_vgg11_has_the_indices_of_torchvisions_features() -> None:
    network = build_network(network_from_text("vgg11:batch"), (3, 32, 32), 10)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    widths = {0: (64, 3), 4: (128, 64), 8: (256, 128), 11: (256, 256), 15: (512, 256)}
    widths |= {18: (512, 512), 22: (512, 512), 25: (512, 512)}
    for index, (width, channels) in widths.items():
        assert shapes[f"layers.{index}.weight"] == (width, channels, 3, 3)
        assert shapes[f"layers.{index + 1}.running_mean"] == (width,)
    assert len(network.layers) == 29


@pytest.mark.parametrize("text", ["vgg11", "alexnet"])
def test_gradients_are_finite_and_reach_every_parameter_and_the_input(text: str) -> None:
    network = build_network(network_from_text(text), (3, 32, 32), 4, generator(0))
    inputs = torch.randn(3, 3, 32, 32, generator=generator(1)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(inputs), torch.tensor([0, 1, 3]))
    gradients = torch.autograd.grad(loss, [inputs, *network.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in (gradients[0], gradients[1], gradients[-2]))


def test_vit_has_the_size_of_vit_tiny_and_its_keys() -> None:
    network = network_shell(network_from_text("vit"), (3, 224, 224), 1000)
    assert num_parameters(network) == 5_717_416
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["pos_embed"] == (1, 197, 192) and shapes["patch_embed.proj.weight"] == (192, 3, 16, 16)
    assert shapes["blocks.11.attn.qkv.weight"] == (576, 192) and shapes["blocks.0.mlp.fc1.weight"] == (768, 192)
    assert {"cls_token", "norm.bias", "head.weight"} <= shapes.keys()


@pytest.mark.parametrize(
    ("shape", "patch", "grid"),
    [
        ((1, 8, 8), 1, (8, 8)),
        ((1, 28, 28), 2, (14, 14)),
        ((3, 32, 32), 4, (8, 8)),
        ((3, 50, 40), 4, (13, 10)),
        ((3, 64, 64), 8, (8, 8)),
        ((3, 128, 128), 16, (8, 8)),
        ((3, 256, 256), 16, (16, 16)),
    ],
)
def test_vit_takes_patches_that_suit_the_image(shape: tuple[int, int, int], patch: int, grid: tuple[int, int]) -> None:
    network = build_network(network_from_text("vit"), shape, 5)
    assert (network.patch, network.grid) == (patch, grid)
    assert network(torch.zeros(1, *shape)).shape == (1, 5)
    assert network.maps(torch.zeros(1, *shape), 0).shape == (1, 192, *grid)


def test_vit_sees_places_and_depends_on_no_global_state() -> None:
    one, two = (build_network(network_from_text("vit"), (1, 8, 8), 4, generator(0)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    inputs = torch.randn(2, 1, 8, 8, generator=generator(1))
    assert not torch.allclose(one(inputs), one(inputs.flip(3)), atol=1e-4)
    one(inputs).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in one.parameters())
    assert torch.equal(one(inputs), one.head(one.features(inputs)))


def test_vit_without_positions_would_not_see_them() -> None:
    """The check above can fail: tokens without positions are a set."""
    network = build_network(network_from_text("vit"), (1, 8, 8), 4, generator(0))
    with torch.no_grad():
        network.pos_embed.zero_()
    inputs = torch.randn(2, 1, 8, 8, generator=generator(1))
    torch.testing.assert_close(network(inputs), network(inputs.flip(3)), rtol=1e-4, atol=1e-5)
