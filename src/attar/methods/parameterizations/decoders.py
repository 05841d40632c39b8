"""Decoders: latent vectors to images, small enough to be stored with the priors that they decode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.shapes import Float
from attar.methods.parameterizations.parameterization import stored_values
from attar.models.networks.network import initialise_parameters

DecoderStorage = Literal["float32", "float16"]

FIRST_SIDE = 2
LARGEST_SIDE = 4096
LARGEST_VALUES = 2**28
"""Of one decoder: 1 GiB as float32."""


@dataclass(frozen=True)
class _Preset:
    """Kernel of the transposed convolutions, first and last width, latent dimension (None: no linear layer)."""

    kernel: int
    width: int
    narrowest: int
    latent_dim: int | None


_PRESETS = {"S": _Preset(4, 256, 8, 64), "M": _Preset(3, 512, 32, 2048), "L": _Preset(3, 1024, 64, None)}


class DecoderConfig(Config):
    """A decoder without its image shape.

    Args:
        size: "S", "M" or "L": D3's three, whose sizes the settings left out take.
        latent_dim: d, 1 to 65536; 64 for S, 2048 for M. L has no linear layer: its d is 4 times its width.
        width: channels of the first map, of 2 x 2; they halve from block to block. 256, 512 and 1024.
        narrowest: channels that no map falls below, at most `width`. 8, 32 and 64.
        scale: s, what tanh is multiplied by; images reach from -s to s in the space that they are decoded to.

    Source: D3 appendix C and Table 8, read with the official code (S: kernel 4; M, L: kernel 3).
    Deviation: M and L have latent dimensions 2048 and 4096, where Table 8 has 1028 and 2048. With its own dimensions
        its numbers of parameters cannot be met: M would have 3.69 M instead of 5.7 M, and an L without a linear layer,
        as the code has it, needs 4 times its width. With ours they are 5.77 M and 6.31 M, and Table 9's storage for
        ImageNet-1K is met too. S has 0.764 M parameters at 32 pixels and 0.766 M at 64, where Table 8 has 0.75 M twice
        (1.9 and 2.1 % more): the nearest of first maps that are powers of two wide; the paper does not give the widths.
    """

    size: Literal["S", "M", "L"] = "S"
    latent_dim: int | None = Field(default=None, ge=1, le=2**16)
    width: int | None = Field(default=None, ge=1, le=4096)
    narrowest: int | None = Field(default=None, ge=1, le=4096)
    scale: float = Field(default=1.0, gt=0, le=1e3)

    @model_validator(mode="after")
    def _sizes_fit(self) -> DecoderConfig:
        preset = _PRESETS[self.size]
        width = self.width or preset.width
        if self.narrowest is not None and self.narrowest > width:
            raise ValueError(f"narrowest {self.narrowest} is more than the width {width}; give at most {width}")
        if preset.latent_dim is None and self.latent_dim not in (None, width * FIRST_SIDE**2):
            raise ValueError(
                f"size {self.size} has no linear layer, so that {self.latent_dim} latent values do not fit a width of "
                f"{width}; leave latent_dim out, or give {width * FIRST_SIDE**2}"
            )
        return self

    def resolved(self) -> DecoderConfig:
        """The same with every size told."""
        preset = _PRESETS[self.size]
        width = self.width or preset.width
        return DecoderConfig(
            size=self.size,
            latent_dim=self.latent_dim or preset.latent_dim or width * FIRST_SIDE**2,
            width=width,
            narrowest=self.narrowest or min(preset.narrowest, width),
            scale=self.scale,
        )

    @property
    def num_latents(self) -> int:
        """d."""
        latent_dim = self.resolved().latent_dim
        assert latent_dim is not None
        return latent_dim


class Decoder(nn.Module):
    """Latent vectors to images.

        x = s tanh(conv(blocks(reshape(W z + b, [k, 2, 2])))),   block = leaky_relu(batch_norm(conv_transpose(.)))

    Every block doubles the side and halves the channels, from k = `width` down to `narrowest`, until both sides of the
    image are reached; of what is larger than the image, the centre is kept. So 28 pixels are the centre of 32. L is
    without W and b.

    Attributes:
        config: with every size told.
        image_shape: (C, H, W).

    Source: D3 appendix C; kernels and paddings of the official code.
    Deviation: the scale s, which is 1 there, and images of any size.
    """

    def __init__(self, config: DecoderConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config, self.image_shape = config.resolved(), image_shape
        kernel = _PRESETS[config.size].kernel
        widths = _widths(self.config, image_shape)
        has_linear = _PRESETS[config.size].latent_dim is not None
        shape = (self.config.num_latents, widths[0] * FIRST_SIDE**2)
        self.linear: nn.Module = nn.Linear(*shape) if has_linear else nn.Identity()
        self.blocks = nn.Sequential(*(_Block(before, after, kernel) for before, after in pairwise(widths)))
        self.last = nn.Conv2d(widths[-1], image_shape[0], 3, padding=1)

    def forward(self, latents: Float[Tensor, "batch latents"]) -> Float[Tensor, "batch C H W"]:
        maps = self.linear(latents).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))
        values = self.config.scale * torch.tanh(self.last(self.blocks(maps)))
        _, height, width = self.image_shape
        top, left = (values.shape[-2] - height) // 2, (values.shape[-1] - width) // 2
        return values[..., top : top + height, left : left + width]


class _Block(nn.Module):
    """Twice the side: transposed convolution of stride 2, batch norm, leaky ReLU of slope 0.01."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(before, after, kernel, stride=2, padding=1, output_padding=kernel % 2)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.norm(self.grow(maps)))


def build_decoder(config: DecoderConfig, image_shape: tuple[int, int, int], generator: torch.Generator) -> Decoder:
    """A decoder on the CPU in float32, in training mode, its values drawn by PyTorch's default law.

    Args:
        config: its sizes.
        image_shape: (C, H, W) of what it makes.
        generator: source of the initial values.

    Raises:
        InputError: a decoder or an image that is too large.

    Example:
        >>> decoder = build_decoder(DecoderConfig(), (3, 32, 32), torch.Generator())
        >>> sum(parameter.numel() for parameter in decoder.parameters())
        764035
    """
    decoder = decoder_shell(config, image_shape).to_empty(device="cpu")
    with torch.no_grad():
        for layer in decoder.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
            elif not list(layer.children()):
                initialise_parameters(layer, generator)
    return decoder


def decoder_shell(config: DecoderConfig, image_shape: tuple[int, int, int]) -> Decoder:
    """A decoder of names and shapes without values, on the meta device.

    Raises:
        InputError: more than 2^28 values, or an image of more than 4096 channels or pixels along a side.
    """
    if not 1 <= min(image_shape) <= max(image_shape) <= LARGEST_SIDE:
        raise InputError(f"a decoder for images of {image_shape} was asked for; each must be 1 to {LARGEST_SIDE}")
    with torch.device("meta"):
        shell = Decoder(config, image_shape)
    num_values = sum(tensor.numel() for tensor in shell.state_dict().values())
    if num_values > LARGEST_VALUES:
        raise InputError(
            f"a decoder of {num_values} values; at most {LARGEST_VALUES} are allowed: take a smaller width"
        )
    return shell


def decoder_table(
    config: DecoderConfig, image_shape: tuple[int, int, int], storage: DecoderStorage
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes of what `store_decoder` gives. Raises InputError as `decoder_shell` does."""
    shell = decoder_shell(config, image_shape)
    return {
        name: ("F16" if _halved(name, storage) else "F32", tuple(tensor.shape))
        for name, tensor in shell.state_dict().items()
        if tensor.is_floating_point()
    }


def store_decoder(decoder: Decoder, storage: DecoderStorage) -> dict[str, Tensor]:
    """The decoder's weights and running statistics as stored tensors, on the CPU.

    With float16 the norms stay float32: they are a few hundred values, and variances can leave float16's range.
    """
    return {
        name: stored_values(tensor, "float16" if _halved(name, storage) else "float32")
        for name, tensor in decoder.state_dict().items()
        if tensor.is_floating_point()
    }


def read_decoder(config: DecoderConfig, image_shape: tuple[int, int, int], tensors: Mapping[str, Tensor]) -> Decoder:
    """The decoder that `store_decoder` stored, in evaluation mode.

    Raises:
        InputError: a running variance below 0, or as of `decoder_shell`.
    """
    decoder = decoder_shell(config, image_shape).to_empty(device="cpu")
    for name, tensor in tensors.items():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise InputError(f"the decoder's {name!r} has variances below 0; the file is damaged")
    untold = torch.zeros((), dtype=torch.int64)  # how many batches a norm has seen; it changes no image
    decoder.load_state_dict({name: tensors.get(name, untold) for name in decoder.state_dict()})
    return decoder.eval()


def swift_decoder(decoder: Decoder) -> Decoder:
    """A frozen copy in evaluation mode whose norms are part of the convolutions before them, and channels last.

        w' = w gamma / sqrt(var + eps),    b' = (b - mean) gamma / sqrt(var + eps) + beta

    Images are equal up to rounding. 256 images of 32 x 32 by S took one CPU core 122 ms as it was, 120 folded, 94
    channels last too; 52 in bfloat16 besides.

    Args:
        decoder: with the running statistics that it decodes with; it is not changed.
    """
    fused = deepcopy(decoder).eval().requires_grad_(False)
    for block in fused.blocks:
        assert isinstance(block, _Block)
        grow = fuse_conv_bn_eval(block.grow, block.norm, transpose=True).requires_grad_(False)
        block.grow, block.norm = grow, nn.Identity()  # type: ignore[assignment]
    return fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _widths(config: DecoderConfig, image_shape: tuple[int, int, int]) -> list[int]:
    """Channels of the map of 2 x 2 and after every block."""
    assert config.width is not None and config.narrowest is not None
    num_blocks = max(1, math.ceil(math.log2(max(image_shape[1:]) / FIRST_SIDE)))
    return [max(config.width >> block, config.narrowest) for block in range(num_blocks + 1)]


def _halved(name: str, storage: DecoderStorage) -> bool:
    return storage == "float16" and ".norm." not in name
