"""MobileNetV2 and ShuffleNetV2, in their forms for small images and in torchvision's."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from attar.models.networks.network import AveragingNetwork, NetworkConfig, keep_torchvisions_keys

# Expansion, width, blocks, stride of the first block for small images, and for ImageNet's.
_MOBILE_STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 1, 2),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)
# Blocks of each stage, whose first one halves the sides; and the widths from the stem to the last stage.
_SHUFFLE_BLOCKS = (4, 8, 4)
_SHUFFLE_WIDTHS = (24, 116, 232, 464)


class MobileNetV2(AveragingNetwork):
    """A 3x3 stem, 17 inverted residual blocks, a last 1x1 convolution, the global average, one linear layer.

    The stem "imagenet" reduces both sides by 32; "small" takes stride 1 in the first convolution and in the stage of
    width 24, so by 8. Keys of the state dict are torchvision's, and so are all shapes with 3 channels and 1000 classes,
    whatever the stem. The last convolution counts as a block of `maps`.

    Source: Sandler et al. 2018, table 2; the strides for small images as the field takes them for CIFAR.
    Deviation: no dropout before the linear layer (torchvision: 0.2), whose draws would come from the global generator.
    """

    last_layer = "classifier.1"

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        small, channels = config.stem == "small", 32
        self.layers = nn.Sequential(nn.Sequential(*_convolution(input_shape[0], 32, 3, 1 if small else 2), nn.ReLU6()))
        for expansion, width, blocks, small_stride, stride in _MOBILE_STAGES:
            for index in range(blocks):
                first_stride = small_stride if small else stride
                self.layers.append(_InvertedResidual(channels, width, 1 if index else first_stride, expansion))
                channels = width
        self.layers.append(nn.Sequential(*_convolution(channels, 1280, 1), nn.ReLU6()))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(1280, num_classes))
        keep_torchvisions_keys(self)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """Every layer but the stem is a block."""
        return [(layer, index > 0) for index, layer in enumerate(self.layers)]


class _InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 by channel, 1x1 back without activation; a shortcut where it fits."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(nn.Sequential(*_convolution(channels, inner, 1), nn.ReLU6()))
        self.conv.append(nn.Sequential(*_convolution(inner, inner, 3, stride, groups=inner), nn.ReLU6()))
        self.conv.extend(_convolution(inner, width, 1))
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv(maps) if self.has_shortcut else self.conv(maps)


class ShuffleNetV2(AveragingNetwork):
    """ShuffleNetV2 x1.0: a 3x3 stem, 16 blocks, a last 1x1 convolution, the global average, one linear layer.

    The stem "imagenet" has stride 2 and a max pooling by 2, so that both sides are reduced by 32; "small" has neither,
    so by 8. Keys of the state dict are torchvision's, and so are all shapes with 3 channels and 1000 classes, whatever
    the stem. The last convolution counts as a block of `maps`.

    Source: Ma et al. 2018, table 5 (x1); the stem for small images as the field takes it for CIFAR.
    """

    last_layer = "fc"

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        small = config.stem == "small"
        self.conv1 = nn.Sequential(*_convolution(input_shape[0], 24, 3, 1 if small else 2), nn.ReLU())
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_Halving(channels, width), *(_Shuffling(width) for _ in range(blocks - 1)))
            for (channels, width), blocks in zip(pairwise(_SHUFFLE_WIDTHS), _SHUFFLE_BLOCKS, strict=True)
        )
        self.conv5 = nn.Sequential(*_convolution(_SHUFFLE_WIDTHS[-1], 1024, 1), nn.ReLU())
        self.fc = nn.Linear(1024, num_classes)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """Every layer but the stem is a block."""
        blocks = [*self.stage2, *self.stage3, *self.stage4, self.conv5]
        return [(self.conv1, False), (self.maxpool, False), *((block, True) for block in blocks)]


class _Shuffling(nn.Module):
    """Half of the channels pass, the other half goes through three convolutions; then the halves are interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch2 = _branch(width // 2, width // 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        passing, rest = maps.chunk(2, 1)
        return _interleaved(passing, self.branch2(rest))


class _Halving(nn.Module):
    """All channels go through two branches of half the width each, with half the sides; then these are interleaved."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        convolutions = _convolution(channels, channels, 3, 2, channels) + _convolution(channels, width // 2, 1)
        self.branch1 = nn.Sequential(*convolutions, nn.ReLU())
        self.branch2 = _branch(channels, width // 2, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return _interleaved(self.branch1(maps), self.branch2(maps))


def _branch(channels: int, width: int, stride: int) -> nn.Sequential:
    last = _convolution(width, width, 3, stride, width) + _convolution(width, width, 1)
    return nn.Sequential(*_convolution(channels, width, 1), nn.ReLU(), *last, nn.ReLU())


def _convolution(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    """The channels of both maps in turn."""
    return torch.stack([first, second], 2).flatten(1, 2)
