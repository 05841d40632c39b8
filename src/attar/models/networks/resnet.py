"""ResNet-18 and ResNet-50, in their forms for small images and in torchvision's."""

from __future__ import annotations

from torch import Tensor, nn

from attar.base.errors import InputError
from attar.models.networks.network import AveragingNetwork, NetworkConfig, Norm, norm_layer

_WIDTHS = (64, 128, 256, 512)
# Blocks of each stage, and by how much a block's map has more channels than its convolutions.
_STAGES = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}


class ResNet(AveragingNetwork):
    """A stem, four stages of blocks, the global average, one linear layer.

    ResNet-18 has two blocks of two convolutions in each stage; ResNet-50 has 3, 4, 6 and 3 of three convolutions, whose
    maps have four times the channels.

    The stem "small" is a 3x3 convolution of stride 1 without max pooling, "imagenet" a 7x7 one of stride 2 and a max
    pooling by 2. Keys of the state dict are torchvision's (norm layers are called bn1, bn2 there, whatever they are),
    and so are all shapes with the stem "imagenet" and 1000 classes. A block of `maps` is a stage.

    Args:
        config: of kind "resnet18" or "resnet50"; norm "instance" (one group for each channel, what the field's
            ResNet-18 has) or "batch".

    Raises:
        InputError: instance norm on inputs so small that the last stage has a single pixel, which it would erase.

    Source: He et al. 2016; stem "small" and norms as in DC's ResNet18. The stride of a block of three is in its 3x3
        convolution, as torchvision has it (ResNet v1.5), not in the first as in the paper.
    Deviation: global average pooling for every size; DC pools 4 x 4 windows, the same thing at 32 x 32.
    """

    last_layer = "fc"

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        small = config.stem == "small"
        one_pixel = 8 if small else 32
        if config.norm == "instance" and max(input_shape[1:]) <= one_pixel:
            other = config.model_copy(update={"norm": "batch"}).name
            raise InputError(
                f"{config.name} with instance norm sees nothing in {input_shape[1]} x {input_shape[2]} inputs: its "
                f"last stage has 1 pixel; take '{other}', or inputs larger than {one_pixel} pixels"
            )
        self.conv1 = _convolution(input_shape[0], 64, 3 if small else 7, 1 if small else 2)
        self.bn1 = _norm(config.norm, 64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        depths, expansion = _STAGES[config.kind]
        channels = 64
        for number, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), 1):
            stage = nn.Sequential()
            for index in range(depth):
                stride = 2 if number > 1 and index == 0 else 1
                stage.append(_Block(channels, width, stride, expansion, config.norm))
                channels = expansion * width
            self.add_module(f"layer{number}", stage)
        self.fc = nn.Linear(channels, num_classes)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """The layers of the stem, then the stages."""
        return [(layer, name.startswith("layer")) for name, layer in self.named_children() if name != self.last_layer]


class _Block(nn.Module):
    """Convolutions beside a shortcut, which has a 1x1 convolution where the shape changes.

    Two of 3x3 without expansion; else of 1x1, 3x3 and 1x1, the last to `expansion` times the width.
    """

    def __init__(self, channels: int, width: int, stride: int, expansion: int, norm: Norm) -> None:
        super().__init__()
        if expansion == 1:
            shapes = [(channels, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, expansion * width, 1, 1)]
        for number, shape in enumerate(shapes, 1):
            self.add_module(f"conv{number}", _convolution(*shape))
            self.add_module(f"bn{number}", _norm(norm, shape[1]))
        self.num_convolutions = len(shapes)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != expansion * width:
            convolution = _convolution(channels, expansion * width, 1, stride)
            self.downsample = nn.Sequential(convolution, _norm(norm, expansion * width))

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        for number in range(1, self.num_convolutions + 1):
            maps = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(maps))
            maps = self.relu(maps if number < self.num_convolutions else maps + shortcut)
        return maps


def _convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)


def _norm(norm: Norm, channels: int) -> nn.Module:
    return norm_layer(norm, channels, (0, 0))
