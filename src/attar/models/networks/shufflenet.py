"""ShuffleNetV2, in its form for small images and in torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig

_STEM_WIDTH, _LAST_WIDTH = 24, 1024
# Width and blocks; the first block of each halves the sides.
_STAGES = ((116, 4), (232, 8), (464, 4))


class ShuffleNetV2(Network):
    """ShuffleNetV2 x1.0: a 3x3 stem, 16 blocks, a last 1x1 convolution, the global average, one linear layer.

    The stem "imagenet" has stride 2 and a max pooling by 2, so that both sides are reduced by 32; "small" has neither,
    so by 8. Keys of the state dict are torchvision's, and so are all shapes with 3 channels and 1000 classes, whatever
    the stem.

    Args:
        config: of kind "shufflenet_v2".
        input_shape: (c, h, w); any.
        num_classes: K.

    Source: Ma et al. 2018, table 5 (x1); the stem for small images as the field takes it for CIFAR.
    """

    num_blocks = sum(blocks for _, blocks in _STAGES) + 1

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        small = config.stem == "small"
        self.conv1 = nn.Sequential(*_convolution(input_shape[0], _STEM_WIDTH, 3, 1 if small else 2), nn.ReLU())
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        before = [_STEM_WIDTH, *(width for width, _ in _STAGES)]
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_Halving(before[index], width), *(_Block(width) for _ in range(blocks - 1)))
            for index, (width, blocks) in enumerate(_STAGES)
        )
        self.conv5 = nn.Sequential(*_convolution(before[-1], _LAST_WIDTH, 1, 1), nn.ReLU())
        self.fc = nn.Linear(_LAST_WIDTH, num_classes)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last convolution's map, averaged over its pixels."""
        maps = self.maxpool(self.conv1(inputs))
        return self.conv5(self.stage4(self.stage3(self.stage2(maps)))).mean((2, 3))

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.fc(self.features(inputs))

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """After every block, and after the last convolution."""
        maps = self.maxpool(self.conv1(inputs))
        for stage in (self.stage2, self.stage3, self.stage4):
            for block in stage:
                maps = block(maps)
                yield maps
        yield self.conv5(maps)


class _Block(nn.Module):
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
        self.branch1 = nn.Sequential(
            *_convolution(channels, channels, 3, 2, channels), *_convolution(channels, width // 2, 1, 1), nn.ReLU()
        )
        self.branch2 = _branch(channels, width // 2, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return _interleaved(self.branch1(maps), self.branch2(maps))


def _branch(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, width, 1, 1),
        nn.ReLU(),
        *_convolution(width, width, 3, stride, width),
        *_convolution(width, width, 1, 1),
        nn.ReLU(),
    )


def _convolution(channels: int, width: int, kernel_size: int, stride: int, groups: int = 1) -> list[nn.Module]:
    padding = kernel_size // 2
    convolution = nn.Conv2d(channels, width, kernel_size, stride=stride, padding=padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    """Channels of both, alternately."""
    return torch.stack([first, second], 2).flatten(1, 2)
