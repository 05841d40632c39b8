"""How much memory rendering through a generator takes."""

from __future__ import annotations

from torch import Tensor, nn

from attar.footprint import saved_bytes_per_item
from attar.generators.codec import GeneratorCodec
from attar.parameterizations.generator import GeneratorItems

VALUE_BYTES = 4


def generating_bytes(items: GeneratorItems) -> int:
    """Bytes at the peak of a step's rendering, with its gradient, and of the frozen weights.

    Activations exist for one chunk at a time; of every item there is the image, its network input and a gradient.
    """
    codec = items.codec
    assert isinstance(codec, GeneratorCodec)
    activations = min(items.chunk_items, len(items)) * saved_bytes_per_item(_Rendering(items), codec.code_shape)
    images = 3 * VALUE_BYTES * len(items) * codec.num_image_values
    weights = sum(value.numel() * value.element_size() for value in codec.parameters())
    return int(activations + images + weights)


class _Rendering(nn.Module):
    """A generator as a function of w alone; f is zero."""

    def __init__(self, items: GeneratorItems) -> None:
        super().__init__()
        assert isinstance(items.codec, GeneratorCodec)
        self.codec, self.depth = items.codec, items.config.depth
        self.shape = None if items.features is None else tuple(items.features.shape[1:])

    def forward(self, codes: Tensor) -> Tensor:
        features = None if self.shape is None else codes.new_zeros(len(codes), *self.shape)
        return self.codec.render(codes, features, self.depth)
