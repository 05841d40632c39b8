"""An observer made fast gives the same answers, for every architecture of the zoo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.alignment import Alignment, AlignmentConfig, recurring_views
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import Network
from attar.models.networks.registry import build_network, network_from_text
from attar.models.observers.observer import FusedObserver, Observer, memory_format, without_batch_norm
from attar.models.real_items import RealItems
from small_observer import SmallObserver
from small_sets import digit_images

ZOO = {
    "convnet:d3w8-batch": 0,
    "resnet18:batch": 0,
    "resnet18:imagenet-batch": 0,
    "vgg11:batch": 0,
    "alexnet:batch": 0,
    "mobilenet_v2": 0,
    "convnet:d2w8": 2,
    "alexnet": 0,
}
"""Architecture -> norms that cannot be folded."""


def trained(text: str, side: int = 32) -> Network:
    """Statistics and factors as no initialisation has them, in float64."""
    network = build_network(network_from_text(text), (3, side, side), 10).double().eval().requires_grad_(False)
    draw = generator(0, text)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_var, layer.weight):
                assert values is not None
                values.copy_(torch.rand(values.shape, generator=draw) + 0.5)
            for values in (layer.running_mean, layer.bias):
                assert values is not None
                values.copy_(torch.randn(values.shape, generator=draw) / 4)
    return network


@pytest.mark.parametrize(("text", "left"), ZOO.items())
def test_folded_norms_change_no_answer(text: str, left: int) -> None:
    network = trained(text)
    folded = without_batch_norm(network)
    images = torch.randn(3, 3, 32, 32, generator=generator(0, "images"), dtype=torch.float64)
    norms = [layer for layer in folded.modules() if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm))]
    assert len(norms) == left
    torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)
    for layer in (0, -1):
        torch.testing.assert_close(folded.maps(images, layer), network.maps(images, layer), rtol=1e-9, atol=1e-9)
    assert not any(value.requires_grad for value in folded.parameters())


def test_the_network_itself_is_not_changed() -> None:
    network = trained("convnet:d2w8-batch")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    without_batch_norm(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("text", ["convnet:d2w8-batch", "resnet18:batch"])
def test_half_the_digits_are_near_and_given_back_whole(text: str) -> None:
    images = torch.rand(4, 3, 16, 16, generator=generator(0, "images"))
    network = trained(text, 16).float()
    codec = fit_codec(PixelsConfig(), digit_images())
    codec.encode = lambda images: images * 2 - 1  # type: ignore[method-assign]
    whole, half = (FusedObserver(network, codec, precision) for precision in ("float32", "bfloat16"))  # type: ignore[arg-type]
    exact, rounded = whole.maps(images, -1), half.maps(images, -1)
    assert rounded.dtype == torch.float32
    gap = float((rounded - exact).norm() / exact.norm())
    assert 1e-5 < gap < 0.03


def test_group_norms_keep_the_usual_memory_format() -> None:
    assert memory_format(trained("convnet:d2w8")) is torch.contiguous_format
    assert memory_format(trained("convnet:d2w8-batch")) is torch.channels_last


def test_an_observer_chooses_the_precision_by_its_work() -> None:
    network = trained("convnet:d3w8-batch").float()
    codec = fit_codec(PixelsConfig(), digit_images())
    observer = Observer(network, network_from_text("convnet:d3w8-batch"), codec, tuple("abcdefghij"))
    assert observer.fused(1).precision == "float32"
    assert observer.fused(1, "bfloat16").precision == "bfloat16"
    assert observer.fused(10**12, "float32").precision == "float32"


class Counting:
    """Originals, and how often each was asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.passes = images, 0

    def __call__(self, items: Tensor) -> Tensor:
        self.passes += 1
        return self.images[items]


def alignment(config: AlignmentConfig, originals: Counting) -> tuple[Alignment, Codes]:
    codec = fit_codec(PixelsConfig(), digit_images())
    items = Codes(codec, torch.zeros(4, 1, 8, 8), torch.arange(4))
    context = Context((1, 8, 8), 10, observer=SmallObserver(), originals=originals)
    return Alignment(config, context), items


@pytest.mark.parametrize(
    ("strategy", "mode", "kept_bytes", "views", "passes"),
    [
        ("flip", "single", 1 << 20, 2, 2),
        ("flip", "multiple", 1 << 20, 2, 2),
        ("flip", "single", 0, 2, 12),
        ("cutout", "single", 1 << 20, 0, 12),
        ("cutout_flip", "multiple", 1 << 20, 0, 12),
    ],
)
def test_views_that_return_are_looked_at_once(
    strategy: str, mode: str, kept_bytes: int, views: int, passes: int
) -> None:
    """Twelve steps with the same gradients as when nothing is kept."""
    augmentation = DsaConfig(strategy=strategy, mode=mode)  # type: ignore[arg-type]
    assert recurring_views(augmentation) == views
    originals = Counting(digit_images().images[:4].float() / 255)
    kept, items = alignment(AlignmentConfig(augmentation=augmentation, kept_bytes=kept_bytes), originals)
    fresh, others = alignment(AlignmentConfig(augmentation=augmentation, kept_bytes=0), Counting(originals.images))
    real = RealItems(torch.arange(10), 10, codes=torch.zeros(10, 1, 8, 8))
    for step in range(12):
        for objective, synthetic in ((kept, items), (fresh, others)):
            synthetic.codes.grad = None
            objective.accumulate(synthetic, real, generator(0, "step", step))
        assert items.codes.grad is not None and float(items.codes.grad.abs().max()) > 0
        assert torch.equal(items.codes.grad, others.codes.grad)
    assert originals.passes == passes
