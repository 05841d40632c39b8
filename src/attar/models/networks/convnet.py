"""The ConvNet of the dataset-distillation field."""

from __future__ import annotations

from torch import nn

from attar.base.errors import InputError
from attar.models.networks.network import Network, NetworkConfig, depth_for, first_padding, norm_layer

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


class ConvNet(Network):
    """Blocks of 3x3 convolution, norm, activation and pooling by 2; then flatten and one linear layer.

    Odd sizes lose their last row or column in pooling, as pooling does. Inputs of 28 x 28 are padded to 32 x 32 by the
    first convolution (padding 3), whatever their channels.

    Raises:
        InputError: more blocks than the input has halvings; the largest possible depth is named.

    Source: Gidaris & Komodakis 2018; depth, width and norm as in Zhao et al. 2021 (DC); LatentDD appendix A.2.
    Deviation: DC pads every one-channel input, here every 28 x 28 one; leaky ReLU has PyTorch's slope of 0.01.
    """

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        channels, *sides = input_shape
        padding, size = first_padding(sides, 1)
        depth = config.depth or depth_for(min(sides))
        _check_depth(config, depth, size)
        self.blocks = nn.Sequential()
        for index in range(depth):
            self.blocks.append(_block(config, channels, size, padding if index == 0 else 1))
            channels = config.width
            size = size if config.pooling == "none" else (size[0] // 2, size[1] // 2)
        self.classifier = nn.Linear(channels * size[0] * size[1], num_classes)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """A block's map is the one after its norm and activation."""
        return [(layer, name == "activation") for block in self.blocks for name, layer in block.named_children()]


def _block(config: NetworkConfig, channels: int, size: tuple[int, int], padding: int) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("convolution", nn.Conv2d(channels, config.width, kernel_size=3, padding=padding))
    block.add_module("norm", norm_layer(config.norm, config.width, size))
    block.add_module("activation", _ACTIVATIONS[config.activation]())
    if config.pooling != "none":
        block.add_module("pooling", nn.AvgPool2d(2) if config.pooling == "average" else nn.MaxPool2d(2))
    return block


def _check_depth(config: NetworkConfig, depth: int, size: tuple[int, int]) -> None:
    halvings = min(size).bit_length() - 1
    if config.pooling != "none" and depth > halvings:
        mend = f"the largest depth here is {halvings}" if halvings else "take pooling 'none'"
        raise InputError(f"a ConvNet of depth {depth} would pool {size[0]} x {size[1]} inputs below 1 pixel; {mend}")
    if config.norm == "instance" and size[0] * size[1] == 1:
        raise InputError("instance norm makes every 1 x 1 map zero; take norm 'batch', 'layer', 'group' or 'none'")
