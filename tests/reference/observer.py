"""A ConvNet with batch norm in evaluation mode, written out in float64 for one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LiteralObserver:
    """The same weights as a `SmallObserver`, read by name.

    Args:
        observer: with `preprocess` (mean and standard deviation of channels) and a ConvNet `network`.
    """

    def __init__(self, observer: nn.Module) -> None:
        self.values = {name: value.detach().double() for name, value in observer.network.state_dict().items()}
        self.mean, self.std = observer.preprocess.mean.double(), observer.preprocess.std.double()
        self.depth = sum(name.endswith("convolution.weight") for name in self.values)

    def normalised(self, image: Tensor) -> Tensor:
        """An image [C, H, W] in [0, 1] as network input."""
        return torch.stack([(image[c] - self.mean[c]) / self.std[c] for c in range(len(image))])

    def passed(self, inputs: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Of one network input [C, H, W]: what enters each batch norm, each block's map before pooling, the logits."""
        entering, maps = [], []
        for block in range(self.depth):
            name = f"blocks.{block}"
            weight, bias = self.values[f"{name}.convolution.weight"], self.values[f"{name}.convolution.bias"]
            inputs = torch.nn.functional.conv2d(inputs[None], weight, bias, padding=1)[0]
            entering.append(inputs)
            normed = []
            for channel in range(len(inputs)):
                mean = self.values[f"{name}.norm.running_mean"][channel]
                variance = self.values[f"{name}.norm.running_var"][channel]
                scale, shift = (self.values[f"{name}.norm.{which}"][channel] for which in ("weight", "bias"))
                normed.append((inputs[channel] - mean) / torch.sqrt(variance + 1e-5) * scale + shift)
            inputs = torch.clamp(torch.stack(normed), min=0)
            maps.append(inputs)
            top, bottom = inputs[:, 0::2], inputs[:, 1::2]
            inputs = (top[..., 0::2] + top[..., 1::2] + bottom[..., 0::2] + bottom[..., 1::2]) / 4
        return entering, maps, self.values["classifier.weight"] @ inputs.flatten() + self.values["classifier.bias"]

    def running(self, layer: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance of a batch norm."""
        name = f"blocks.{layer}.norm"
        return self.values[f"{name}.running_mean"], self.values[f"{name}.running_var"]
