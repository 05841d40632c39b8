"""An observer that is made in milliseconds: a small ConvNet with batch norm that has seen the digits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig, Norm
from attar.models.networks.registry import build_network
from attar.models.observers.observer import FusedObserver
from attar.models.training.acceleration import Precision
from small_sets import digit_images


class SmallObserver(nn.Module):
    """Weights after so many steps of training, and the running statistics of the real digits under them."""

    def __init__(self, depth: int = 2, width: int = 6, norm: Norm = "batch", num_steps: int = 0) -> None:
        super().__init__()
        images = digit_images()
        self.preprocess = fit_codec(PixelsConfig(), images)
        config = NetworkConfig(depth=depth, width=width, norm=norm)
        self.network = build_network(config, images.image_shape, images.num_classes, generator(3, "observer"))
        self._train_on(images, num_steps)
        for layer in self.batch_statistics():
            layer.reset_running_stats()
            layer.momentum = None  # the mean over what it is shown
        with torch.no_grad():
            self.network.train()(self.preprocess.encode(images.images[:512].float() / 255))
        self.eval().requires_grad_(False)

    def _train_on(self, images: ImageSet, num_steps: int) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), 0.01)
        for step in range(num_steps):
            chosen = torch.randint(len(images), (128,), generator=generator(0, "batch", step))
            optimizer.zero_grad()
            F.cross_entropy(self.logits(images.images[chosen].float() / 255), images.labels[chosen]).backward()
            optimizer.step()

    def logits(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess.encode(images))

    def maps(self, images: Tensor, layer: int) -> Tensor:
        blocks = list(self.network.blocks)
        last = range(len(blocks))[layer]
        inputs = self.preprocess.encode(images)
        for block in blocks[:last]:
            inputs = block(inputs)
        return blocks[last][:3](inputs)

    def fused(self, num_images: int, precision: Precision) -> FusedObserver:
        return FusedObserver(self.network, self.preprocess, "bfloat16" if precision == "bfloat16" else "float32")

    def batch_statistics(self) -> list[nn.BatchNorm2d]:
        return [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
