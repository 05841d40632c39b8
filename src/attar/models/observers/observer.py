"""A trained network that looks at images, and is never changed by what it sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor, nn

from attar.base.files import canonical_json
from attar.base.shapes import Float
from attar.models.codecs.codec import Codec
from attar.models.networks.network import Network, NetworkConfig
from attar.models.observers.fused import SwiftObserver, memory_format
from attar.models.training.acceleration import Precision, forward_flops, resolve_acceleration

PASSES = 3
"""Forward passes that an image costs where it is seen twice, and once backwards."""


class Observer(nn.Module):
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
        self.network = network.requires_grad_(False)
        self.network.to(memory_format=memory_format(network))  # type: ignore[call-overload]
        self.config = config
        self.preprocess = preprocess
        self.classes = tuple(classes)
        self.accuracy = accuracy
        self.eval()
        self.identity = self._identity()

    def train(self, mode: bool = True) -> Observer:
        """Leaves it in evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items classes"]:
        """`logits`."""
        return self.logits(images)

    def logits(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items classes"]:
        """What it takes images in [0, 1] for, before the softmax."""
        return self.network(self._inputs(images))

    def maps(self, images: Float[Tensor, "items C H W"], layer: int) -> Float[Tensor, "items c h w"]:
        """The feature map after a block, before its pooling; see `Network.maps`."""
        return self.network.maps(self._inputs(images), layer)

    def swift(self, num_images: int, precision: Precision = "auto") -> SwiftObserver:
        """The same observer made fast, for alignment with so many images in all.

        Args:
            num_images: images of a step times steps, by which "auto" chooses the precision.
            precision: "auto", "float32" or "bfloat16".
        """
        flops = float(PASSES * num_images * forward_flops(self.network, self.network.input_shape))
        chosen = resolve_acceleration(precision, next(self.network.parameters()).device, flops).precision
        return SwiftObserver(self.network, self.preprocess, chosen)

    def batch_statistics(self) -> list[nn.BatchNorm2d]:
        """Its batch-norm layers, in the order of the state dict; empty where it has none."""
        return [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters and running statistics in float32 on the CPU, under the state dict's names.

        How many batches the statistics saw has no part in what it computes, and is left out.
        """
        state = self.network.state_dict()
        return {name: value.float().cpu() for name, value in state.items() if value.is_floating_point()}

    @property
    def num_bytes(self) -> int:
        """Of its weights in float32."""
        return sum(4 * value.numel() for value in self.network.state_dict().values() if value.is_floating_point())

    def _inputs(self, images: Tensor) -> Tensor:
        return self.preprocess.encode(images).contiguous(memory_format=memory_format(self.network))

    def _identity(self) -> str:
        about = [self.config.name, self.network.input_shape, self.network.num_classes, self.preprocess.identity()]
        digest = hashlib.sha256(canonical_json(about).encode())
        for name, value in sorted(self.weights().items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()
