"""AlexNet in its form for small images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig, Norm, first_padding, norm_layer

_SMALLEST_SIDE = 8


class AlexNet(Network):
    """Five convolutions with ReLU, max pooling by 2 after the first, second and last; flatten, one linear layer.

    Its convolutions are not those of torchvision's AlexNet, so neither are the keys of its state dict. Inputs of
    28 x 28 are padded to 32 x 32 by the first convolution (padding 4), whatever their channels. Odd sizes lose their
    last row or column in pooling.

    Args:
        config: of kind "alexnet"; norm "none" (its default) or "batch", before every ReLU.
        input_shape: (c, h, w).
        num_classes: K.

    Raises:
        InputError: inputs that three poolings leave without a pixel.

    Source: Krizhevsky et al. 2012; kernels, widths and the one linear layer as in DC's AlexNet.
    Deviation: the linear layer follows the size of the input; DC's is for 32 x 32 alone. DC pads every one-channel
        input, here every 28 x 28 one.
    """

    num_blocks = 5

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        channels, *sides = input_shape
        padding, size = first_padding(sides, 2)
        if min(size) < _SMALLEST_SIDE:
            raise InputError(
                f"alexnet pools three times and sees nothing in {sides[0]} x {sides[1]} inputs; give inputs of at "
                "least 8 x 8, or take kind 'convnet'"
            )
        self.layers = nn.Sequential(
            *_convolution(channels, 128, 5, padding, config.norm),
            nn.MaxPool2d(2),
            *_convolution(128, 192, 5, 2, config.norm),
            nn.MaxPool2d(2),
            *_convolution(192, 256, 3, 1, config.norm),
            *_convolution(256, 192, 3, 1, config.norm),
            *_convolution(192, 192, 3, 1, config.norm),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(192 * (size[0] // 8) * (size[1] // 8), num_classes)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last pooled map, flattened: 192 x 4 x 4 values at 32 x 32, 192 x 32 x 32 at 256 x 256."""
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


def _convolution(channels: int, width: int, kernel_size: int, padding: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel_size=kernel_size, padding=padding)
    return [convolution, *([] if norm == "none" else [norm_layer(norm, width, (0, 0))]), nn.ReLU()]
