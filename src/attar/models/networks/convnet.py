"""The ConvNet of the dataset-distillation field, and VGG-11 and AlexNet in their forms for small images."""

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

# Width and kernel of every convolution; None is max pooling by 2.
_VGG11 = ((64, 3), None, (128, 3), None, (256, 3), (256, 3), None, (512, 3), (512, 3), None, (512, 3), (512, 3), None)
_ALEXNET = ((128, 5), None, (192, 5), None, (256, 3), (192, 3), (192, 3), None)


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


class PlainNet(Network):
    """Convolutions with norm and ReLU, max poolings by 2; then flatten and one linear layer.

    `layers` of vgg11 has the indices and shapes of `features` in torchvision's vgg11_bn; alexnet's convolutions are not
    those of torchvision's. Inputs of 28 x 28 are padded to 32 x 32 by the first convolution, whatever their channels.
    Odd sizes lose their last row or column in pooling.

    Args:
        config: of kind "vgg11", with norm "instance" (one group for each channel, the field's default) or "batch"; or
            of kind "alexnet", with norm "none" (its default) or "batch".

    Raises:
        InputError: inputs that the poolings leave without a pixel.

    Source: Simonyan & Zisserman 2015 and Krizhevsky et al. 2012; kernels, widths, norms and the one linear layer as in
        DC's VGG11 and AlexNet.
    Deviation: the linear layer follows the size of the input; DC's is for 32 x 32 alone. DC pads every one-channel
        input, here every 28 x 28 one.
    """

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        steps = _VGG11 if config.kind == "vgg11" else _ALEXNET
        channels, *sides = input_shape
        _, size = first_padding(sides, 0)
        _check_size(config, sides, min(size), num_poolings=steps.count(None))
        self.layers = nn.Sequential()
        for step in steps:
            if step is None:
                self.layers.append(nn.MaxPool2d(2))
                size = (size[0] // 2, size[1] // 2)
                continue
            width, kernel = step
            padding = kernel // 2 if len(self.layers) else first_padding(sides, kernel // 2)[0]
            self.layers.append(nn.Conv2d(channels, width, kernel, padding=padding))
            if config.norm != "none":
                self.layers.append(norm_layer(config.norm, width, size))
            self.layers.append(nn.ReLU())
            channels = width
        self.classifier = nn.Linear(channels * size[0] * size[1], num_classes)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """A block ends with the activation of its convolution."""
        return [(layer, isinstance(layer, nn.ReLU)) for layer in self.layers]


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


def _check_size(config: NetworkConfig, sides: list[int], smallest: int, num_poolings: int) -> None:
    least = 2**num_poolings
    if smallest < least:
        times, padded = {3: ("three", ""), 5: ("five", " (or 28 x 28)")}[num_poolings]
        raise InputError(
            f"{config.kind} pools {times} times and sees nothing in {sides[0]} x {sides[1]} inputs; give inputs of at "
            f"least {least} x {least}{padded}, or take kind 'convnet'"
        )
