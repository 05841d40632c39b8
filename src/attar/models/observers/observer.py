"""A trained network that looks at images, and is never changed by what it sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attar.base.files import canonical_json
from attar.base.shapes import Float
from attar.models.codecs.codec import Codec
from attar.models.networks.network import Network, NetworkConfig
from attar.models.training.acceleration import Precision, forward_flops, pass_shapes, resolve_acceleration

PASSES = 3
"""Forward passes that an image costs where it is seen twice, and once backwards."""


class Observing:
    """Logits and maps of images in [0, 1] by a frozen network in evaluation mode."""

    network: Network
    preprocess: Codec
    precision: Literal["float32", "bfloat16"]
    memory_format: torch.memory_format

    def logits(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items classes"]:
        """The network's logits of the images."""
        with self._autocast(images):
            return _full(self.network(self._inputs(images)))

    def maps(self, images: Float[Tensor, "items C H W"], layer: int) -> Float[Tensor, "items c h w"]:
        """The feature map after a block, before its pooling; see `Network.maps`."""
        with self._autocast(images):
            return _full(self.network.maps(self._inputs(images), layer))

    def batch_statistics(self) -> list[nn.BatchNorm2d]:
        """The network's batch-norm layers, in the order of the state dict; empty where it has none."""
        return [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]

    def _inputs(self, images: Tensor) -> Tensor:
        return self.preprocess.encode(images).contiguous(memory_format=self.memory_format)

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


class FusedObserver(Observing):
    """An observer with its batch norms folded into convolutions: equal up to rounding, with less work and memory.

    A frozen batch norm is a factor and a constant for each channel, so it goes into the convolution before it. With
    weights that need no gradient the backward pass then keeps no map but those of activations. 100 images of 64 x 64,
    forward and back to the inputs on two cores, in the memory format chosen here: ConvNet-4 551 ms as it was, 511
    folded, 272 in bfloat16 too; ResNet-18 4.17, 3.99 and 2.01 s; MobileNet-V2 1.86, 1.43 and 1.30 s. Compiling won 10 %
    more at most and lost 3 times on MobileNet-V2, so nothing is compiled.

    Args:
        network: frozen, in evaluation mode; it is copied.
        preprocess: images to network inputs.
        precision: "bfloat16" is autocast: convolutions and matrix products alone; results are float32.
    """

    def __init__(self, network: Network, preprocess: Codec, precision: Literal["float32", "bfloat16"]) -> None:
        self.preprocess, self.precision, self.memory_format = preprocess, precision, memory_format(network)
        self.network = without_batch_norm(network).to(memory_format=self.memory_format)  # type: ignore[call-overload]


class Observer(Observing, nn.Module):
    """Logits and feature maps of images in [0, 1], differentiable with respect to the images alone.

    It is always in evaluation mode: batch norm takes its running statistics, and `.train()` changes nothing.

    Args:
        network: trained; it is taken over and frozen.
        config: of `network`.
        preprocess: images to network inputs.
        classes: K names, in the order of the logits.
        accuracy: percent of checked training images that it has right; NaN before it is checked.

    Attributes:
        identity: sha256 over architecture, shape, preprocessing and weights: equal observers give equal logits. The
            architecture counts by its short name, so that a later setting with a default renames no observer.
    """

    def __init__(
        self,
        network: Network,
        config: NetworkConfig,
        preprocess: Codec,
        classes: Sequence[str],
        accuracy: float = float("nan"),
    ) -> None:
        super().__init__()
        self.precision, self.memory_format = "float32", memory_format(network)
        self.network = network.requires_grad_(False).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.config, self.preprocess = config, preprocess
        self.classes, self.accuracy = tuple(classes), accuracy
        self.eval()
        about = [config.name, network.input_shape, network.num_classes, preprocess.identity()]
        digest = hashlib.sha256(canonical_json(about).encode())
        for name, value in sorted(self.weights().items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()

    def train(self, mode: bool = True) -> Observer:
        """Leaves the observer in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items classes"]:
        return self.logits(images)

    def fused(self, num_images: int, precision: Precision = "auto") -> FusedObserver:
        """A faster copy of the observer, for alignment with so many images in all.

        Args:
            num_images: images of a step times steps, by which "auto" chooses the precision.
            precision: "auto", "float32" or "bfloat16".
        """
        flops = float(PASSES * num_images * forward_flops(self.network, self.network.input_shape))
        resolved = resolve_acceleration(precision, next(self.network.parameters()).device, flops).precision
        return FusedObserver(self.network, self.preprocess, resolved)

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters and running statistics in float32 on the CPU, under the state dict's names.

        How many batches the statistics saw has no part in what it computes, and is left out.
        """
        state = self.network.state_dict()
        return {name: value.float().cpu() for name, value in state.items() if value.is_floating_point()}

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights in float32."""
        return sum(4 * value.numel() for value in self.network.state_dict().values() if value.is_floating_point())


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels last, unless there are group norms, which are slow in that format."""
    slow = any(isinstance(layer, (nn.GroupNorm, nn.InstanceNorm2d)) for layer in network.modules())
    return torch.contiguous_format if slow else torch.channels_last


def without_batch_norm(network: Network) -> Network:
    """A copy in which every batch norm is part of the convolution whose map it receives.

        w' = w gamma / sqrt(var + eps),    b' = (b - mean) gamma / sqrt(var + eps) + beta

    Args:
        network: in evaluation mode; a convolution's map goes to its norm alone. Which norm follows which convolution is
            seen in a pass of shapes without values.
    """
    folded = deepcopy(network).eval()
    for convolution, norm in _pairs(network):
        before, after = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        folded.set_submodule(convolution, fuse_conv_bn_eval(before, after).requires_grad_(False))
        folded.set_submodule(norm, nn.Identity())
    return folded


def _pairs(network: Network) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that follow them."""
    shell = deepcopy(network).to("meta")
    maker: dict[int, str] = {}
    alive: list[Tensor] = []
    pairs: list[tuple[str, str]] = []

    def note_output(name: str, output: Tensor) -> None:
        maker[id(output)] = name
        alive.append(output)  # an id names one tensor only while it lives

    def note_input(name: str, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in maker:
            pairs.append((maker[id(inputs[0])], name))

    for name, layer in shell.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output, name=name: note_output(name, output))
        elif isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs, name=name: note_input(name, inputs))
    pass_shapes(shell, network.input_shape)
    return pairs


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
