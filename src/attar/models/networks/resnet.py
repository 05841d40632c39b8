"""ResNet-18 and ResNet-50, in their forms for small images and in torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig, Norm, norm_layer


class ResNet(Network):
    """A stem, four stages of blocks, the global average, one linear layer.

    ResNet-18 has two blocks of two convolutions in each stage; ResNet-50 has 3, 4, 6 and 3 of three convolutions, whose
    maps have four times the channels.

    The stem "small" is a 3x3 convolution of stride 1 without max pooling, "imagenet" a 7x7 one of stride 2 and a max
    pooling by 2. Keys of the state dict are torchvision's (norm layers are called bn1, bn2 there, whatever they are),
    and so are all shapes with the stem "imagenet" and 1000 classes.

    Args:
        config: of kind "resnet18" or "resnet50"; norm "instance" (one group for each channel, what the field's
            ResNet-18 has) or "batch".
        input_shape: (c, h, w).
        num_classes: K.

    Raises:
        InputError: instance norm on inputs so small that the last stage has a single pixel, which it would erase.

    Source: He et al. 2016; stem "small" and norms as in DC's ResNet18. The stride of a block of three is in its 3x3
        convolution, as torchvision has it (ResNet v1.5), not in the first as in the paper.
    Deviation: global average pooling for every size; DC pools 4 x 4 windows, the same thing at 32 x 32.
    """

    num_blocks = 4

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        one_pixel = 8 if config.stem == "small" else 32
        if config.norm == "instance" and max(input_shape[1:]) <= one_pixel:
            raise InputError(
                f"{config.name} with instance norm sees nothing in {input_shape[1]} x {input_shape[2]} inputs: "
                f"its last stage has 1 pixel; take '{_with_batch_norm(config)}', or inputs larger than {one_pixel} "
                "pixels"
            )
        if config.stem == "small":
            self.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(config.norm, 64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if config.stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)
        block, depths = _BLOCKS[config.kind]
        before = [64, *(block.expansion * width for width in _WIDTHS)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(block, before[index], width, depths[index], min(index, 1) + 1, config.norm)
            for index, width in enumerate(_WIDTHS)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before[-1], num_classes)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last stage's map, averaged over its pixels."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.avgpool(maps).flatten(1)

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.fc(self.features(inputs))

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """After every stage."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
            yield maps


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which has a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(norm, width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.downsample = _shortcut(channels, width, stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(maps + shortcut)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the width, beside a shortcut as that of `_BasicBlock`."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = _norm(norm, 4 * width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(channels, 4 * width, stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps))))))
        return self.relu(self.bn3(self.conv3(maps)) + shortcut)


_WIDTHS = (64, 128, 256, 512)
_BLOCKS: dict[str, tuple[type[_BasicBlock | _Bottleneck], tuple[int, ...]]] = {
    "resnet18": (_BasicBlock, (2, 2, 2, 2)),
    "resnet50": (_Bottleneck, (3, 4, 6, 3)),
}


def _stage(
    block: type[_BasicBlock | _Bottleneck], channels: int, width: int, depth: int, stride: int, norm: Norm
) -> nn.Sequential:
    later = (block(block.expansion * width, width, 1, norm) for _ in range(depth - 1))
    return nn.Sequential(block(channels, width, stride, norm), *later)


def _shortcut(channels: int, width: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and channels == width:
        return None
    convolution = nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(convolution, _norm(norm, width))


def _with_batch_norm(config: NetworkConfig) -> str:
    return config.model_copy(update={"norm": "batch"}).name


def _norm(norm: Norm, channels: int) -> nn.Module:
    return norm_layer(norm, channels, (0, 0))
