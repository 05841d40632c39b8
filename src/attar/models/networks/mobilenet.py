"""MobileNetV2, in its form for small images and in torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.state_keys import keep_torchvisions_keys

# Expansion, width, blocks, stride of the first block for small images, and for ImageNet's.
_STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 1, 2),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)
_STEM_WIDTH, _LAST_WIDTH = 32, 1280


class MobileNetV2(Network):
    """A 3x3 stem, 17 inverted residual blocks, a last 1x1 convolution, the global average, one linear layer.

    The stem "imagenet" reduces both sides by 32; "small" takes stride 1 in the first convolution and in the stage of
    width 24, so by 8. Keys of the state dict are torchvision's, and so are all shapes with 3 channels and 1000 classes,
    whatever the stem.

    Args:
        config: of kind "mobilenet_v2".
        input_shape: (c, h, w).
        num_classes: K.

    Source: Sandler et al. 2018, table 2; the strides for small images as the field takes them for CIFAR.
    Deviation: no dropout before the linear layer (torchvision: 0.2), whose draws would come from the global generator.
    """

    num_blocks = sum(stage[2] for stage in _STAGES) + 1

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        small = config.stem == "small"
        channels = _STEM_WIDTH
        layers: list[nn.Module] = [_convolution(input_shape[0], channels, 3, 1 if small else 2)]
        for expansion, width, blocks, small_stride, stride in _STAGES:
            for index in range(blocks):
                first_stride = small_stride if small else stride
                layers.append(_InvertedResidual(channels, width, 1 if index else first_stride, expansion))
                channels = width
        layers.append(_convolution(channels, _LAST_WIDTH, 1, 1))
        self.layers = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(_LAST_WIDTH, num_classes))
        keep_torchvisions_keys(self)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last convolution's map, averaged over its pixels."""
        return self.avgpool(self.layers(inputs)).flatten(1)

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.classifier(self.features(inputs))

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """After every inverted residual block, and after the last convolution."""
        for index, layer in enumerate(self.layers):
            inputs = layer(inputs)
            if index:
                yield inputs


class _InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 by channel, 1x1 back without activation; a shortcut where it fits."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_convolution(channels, inner, 1, 1))
        self.conv.append(_convolution(inner, inner, 3, stride, groups=inner))
        self.conv.append(nn.Conv2d(inner, width, kernel_size=1, bias=False))
        self.conv.append(nn.BatchNorm2d(width))
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv(maps) if self.has_shortcut else self.conv(maps)


def _convolution(channels: int, width: int, kernel_size: int, stride: int, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(
        channels, width, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU6())
