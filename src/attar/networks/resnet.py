"""ResNet-18, in its form for small images and in torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from attar.errors import InputError
from attar.networks.network import Network, NetworkConfig, Norm, norm_layer
from attar.shapes import Float


class ResNet18(Network):
    """ResNet-18: a stem, four stages of two blocks, the global average, one linear layer.

    The stem "small" is a 3x3 convolution of stride 1 without max pooling, "imagenet" a 7x7 one of stride 2 and a max
    pooling by 2. Keys of the state dict are torchvision's (norm layers are called bn1, bn2 there, whatever they are),
    and so are all shapes with the stem "imagenet" and 1000 classes.

    Args:
        config: of kind "resnet18"; norm "instance" (one group for each channel, the field's default) or "batch".
        input_shape: (c, h, w).
        num_classes: K.

    Raises:
        InputError: instance norm on inputs so small that the last stage has a single pixel, which it would erase.

    Source: He et al. 2016; stem "small" and norms as in DC's ResNet18.
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
        self.layer1 = _stage(64, 64, 1, config.norm)
        self.layer2 = _stage(64, 128, 2, config.norm)
        self.layer3 = _stage(128, 256, 2, config.norm)
        self.layer4 = _stage(256, 512, 2, config.norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

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

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(norm, width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False), _norm(norm, width)
            )

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(maps + shortcut)


def _stage(channels: int, width: int, stride: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(_BasicBlock(channels, width, stride, norm), _BasicBlock(width, width, 1, norm))


def _with_batch_norm(config: NetworkConfig) -> str:
    return config.model_copy(update={"norm": "batch"}).name


def _norm(norm: Norm, channels: int) -> nn.Module:
    return norm_layer(norm, channels, (0, 0))
