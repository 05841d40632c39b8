"""VGG-11 in its form for small images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig, first_padding, norm_layer

_WIDTHS: tuple[int | None, ...] = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None)  # None pools
_SMALLEST_SIDE = 32


class Vgg11(Network):
    """Eight 3x3 convolutions with norm and ReLU, five max poolings by 2; then flatten and one linear layer.

    `layers` has the indices and shapes of `features` in torchvision's vgg11_bn. Inputs of 28 x 28 are padded to 32 x 32
    by the first convolution (padding 3), whatever their channels. Odd sizes lose their last row or column in pooling.

    Args:
        config: of kind "vgg11"; norm "instance" (one group for each channel, the field's default) or "batch".
        input_shape: (c, h, w).
        num_classes: K.

    Raises:
        InputError: inputs that five poolings leave without a pixel.

    Source: Simonyan & Zisserman 2015; one linear layer and norms as in DC's VGG11.
    Deviation: the linear layer follows the size of the input; DC's is for 32 x 32 alone. DC pads every one-channel
        input, here every 28 x 28 one.
    """

    num_blocks = 8

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        channels, *sides = input_shape
        padding, size = first_padding(sides, 1)
        if min(size) < _SMALLEST_SIDE:
            raise InputError(
                f"vgg11 pools five times and sees nothing in {sides[0]} x {sides[1]} inputs; give inputs of at least "
                "32 x 32 (or 28 x 28), or take kind 'convnet'"
            )
        self.layers = nn.Sequential()
        for width in _WIDTHS:
            if width is None:
                self.layers.append(nn.MaxPool2d(2))
                size = (size[0] // 2, size[1] // 2)
                continue
            self.layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=padding))
            self.layers.append(norm_layer(config.norm, width, size))
            self.layers.append(nn.ReLU())
            channels, padding = width, 1
        self.classifier = nn.Linear(channels * size[0] * size[1], num_classes)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last pooled map, flattened: 512 values at 32 x 32, 512 x 8 x 8 at 256 x 256."""
        return self.layers(inputs).flatten(1)

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.classifier(self.features(inputs))

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """After the activation of every convolution."""
        for layer in self.layers:
            inputs = layer(inputs)
            if isinstance(layer, nn.ReLU):
                yield inputs
