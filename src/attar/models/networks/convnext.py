"""ConvNeXt-Tiny, in a form for small images and in torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.state_keys import keep_torchvisions_keys

# Width and blocks.
_STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
_PATCH = {"small": 2, "imagenet": 4}
_HALVINGS = 8
_LAYER_SCALE = 1e-6
_EPSILON = 1e-6


class ConvNextTiny(Network):
    """Patches, four stages of blocks with a halving between two, the global average, a norm and one linear layer.

        x <- x + s * W_2 gelu(W_1 norm(convolution_7x7(x))),   s = 1e-6 at first, one for each channel

    The stem "imagenet" takes patches of 4 x 4 pixels, "small" of 2 x 2. Sides lose what no patch or halving fills. Keys
    of the state dict are torchvision's, and so are all shapes with 3 channels, 1000 classes and the stem "imagenet".

    Args:
        config: of kind "convnext_tiny".
        input_shape: (c, h, w); from 16 x 16 on with the stem "small", from 32 x 32 with "imagenet".
        num_classes: K.

    Raises:
        InputError: inputs that leave the last stage without a pixel.

    Source: Liu et al. 2022, section 2 and appendix A.1; the patch of 2 for small images is ours.
    Deviation: layers are drawn by PyTorch's default law, as every network here (the paper: truncated normal, 0.02); no
        stochastic depth, whose draws would come from the global generator.
    """

    num_blocks = sum(blocks for _, blocks in _STAGES)

    def __init__(self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        channels, *sides = input_shape
        patch = _PATCH[config.stem]
        if min(sides) < patch * _HALVINGS:
            raise InputError(
                f"{config.name} reduces both sides by {patch * _HALVINGS} and sees nothing in {sides[0]} x {sides[1]} "
                f"inputs; give inputs of at least {patch * _HALVINGS} x {patch * _HALVINGS}, or take kind 'convnet'"
            )
        layers: list[nn.Module] = []
        for index, (width, blocks) in enumerate(_STAGES):
            if index:
                layers.append(nn.Sequential(_MapNorm(channels), nn.Conv2d(channels, width, 2, stride=2)))
            else:
                layers.append(nn.Sequential(nn.Conv2d(channels, width, patch, stride=patch), _MapNorm(width)))
            layers.append(nn.Sequential(*(_Block(width) for _ in range(blocks))))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Sequential(_MapNorm(channels), nn.Flatten(1), nn.Linear(channels, num_classes))
        keep_torchvisions_keys(self)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The last stage's map, averaged over its pixels, after the last norm."""
        return self.classifier[:2](self.layers(inputs).mean((2, 3), keepdim=True))

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.classifier[2](self.features(inputs))

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """After every block."""
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Sequential)
            for part in layer:
                inputs = part(inputs)
                if index % 2:
                    yield inputs


class _MapNorm(nn.LayerNorm):
    """Normalises the channels at every pixel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        moved = F.layer_norm(maps.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return moved.movedim(-1, 1)


class _Moved(nn.Module):
    """Channels from one axis to another."""

    def __init__(self, source: int, destination: int) -> None:
        super().__init__()
        self.source, self.destination = source, destination

    def forward(self, maps: Tensor) -> Tensor:
        return maps.movedim(self.source, self.destination)


class _Block(nn.Module):
    """A 7x7 convolution of every channel and two linear layers of every pixel, scaled, beside a way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            _Moved(1, -1),
            nn.LayerNorm(width, eps=_EPSILON),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            _Moved(-1, 1),
        )
        self.layer_scale = nn.Parameter(torch.empty(width, 1, 1))

    @torch.no_grad()
    def draw_own(self, generator: torch.Generator) -> None:
        """The scales are the same for every seed."""
        self.layer_scale.fill_(_LAYER_SCALE)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layer_scale * self.block(maps)
