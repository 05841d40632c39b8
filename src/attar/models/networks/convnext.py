"""ConvNeXt-Tiny, in a form for small images and in torchvision's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.models.networks.network import Network, NetworkConfig, keep_torchvisions_keys

# Width and blocks.
_STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
_HALVINGS = 8
_LAYER_SCALE = 1e-6


class ConvNextTiny(Network):
    """Patches, four stages of blocks with a halving between two, the global average, a norm and one linear layer.

        x <- x + s * W_2 gelu(W_1 norm(convolution_7x7(x))),   s = 1e-6 at first, one for each channel

    The stem "imagenet" takes patches of 4 x 4 pixels, "small" of 2 x 2. Sides lose what no patch or halving fills. Keys
    of the state dict are torchvision's, and so are all shapes with 3 channels, 1000 classes and the stem "imagenet".

    Raises:
        InputError: inputs below 16 x 16 with the stem "small", below 32 x 32 with "imagenet", which leave the last
            stage without a pixel.

    Source: Liu et al. 2022, section 2 and appendix A.1; the patch of 2 for small images is ours.
    Deviation: layers are drawn by PyTorch's default law, as every network here (the paper: truncated normal, 0.02); no
        stochastic depth, whose draws would come from the global generator.
    """

    last_layer = "classifier.2"

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        channels, *sides = input_shape
        patch = 2 if config.stem == "small" else 4
        least = patch * _HALVINGS
        if min(sides) < least:
            raise InputError(
                f"{config.name} reduces both sides by {least} and sees nothing in {sides[0]} x {sides[1]} inputs; give "
                f"inputs of at least {least} x {least}, or take kind 'convnet'"
            )
        self.layers = nn.Sequential()
        for index, (width, blocks) in enumerate(_STAGES):
            if index:
                reduction = nn.Sequential(_MapNorm(channels), nn.Conv2d(channels, width, 2, stride=2))
            else:
                reduction = nn.Sequential(nn.Conv2d(channels, width, patch, stride=patch), _MapNorm(width))
            self.layers.extend([reduction, nn.Sequential(*(_Block(width) for _ in range(blocks)))])
            channels = width
        self.classifier = nn.Sequential(_MapNorm(channels), nn.Flatten(1), nn.Linear(channels, num_classes))
        keep_torchvisions_keys(self)

    def parts(self) -> list[tuple[nn.Module, bool]]:
        """Reductions of the sides and stages of blocks take turns."""
        return [(part, index % 2 == 1) for index, layer in enumerate(self.layers) for part in layer.children()]

    def pooled(self, maps: Tensor) -> Tensor:
        """The last stage's map, averaged over its pixels, after the last norm."""
        return self.classifier[:2](maps.mean((2, 3), keepdim=True))


class _MapNorm(nn.LayerNorm):
    """Normalises the channels at every pixel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        moved = F.layer_norm(maps.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return moved.movedim(-1, 1)


class _Block(nn.Module):
    """A 7x7 convolution of every channel and two linear layers of every pixel, scaled, with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.Identity(),  # torchvision's moves the channels here and at the end, and counts it
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )
        self.layer_scale = nn.Parameter(torch.empty(width, 1, 1))

    @torch.no_grad()
    def draw_own(self, generator: torch.Generator) -> None:
        """Every seed has the same scales."""
        self.layer_scale.fill_(_LAYER_SCALE)

    def forward(self, maps: Tensor) -> Tensor:
        pixels = self.block[0](maps).movedim(1, -1)
        return maps + self.layer_scale * self.block[1:](pixels).movedim(-1, 1)
