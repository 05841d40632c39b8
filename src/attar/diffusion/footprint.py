"""How much memory rendering through a diffusion model takes."""

from __future__ import annotations

from torch import Tensor, nn

from attar.diffusion.codec import DiffusionCodec
from attar.diffusion.model import DiffusionModel
from attar.footprint import saved_bytes_per_item
from attar.parameterizations.diffusion import Diffusion

VALUE_BYTES = 4

KEPT_CODES = 4
"""Z, its gradient, the noise of z_T and z_T itself."""


def rendering_bytes(items: Diffusion) -> int:
    """Bytes at the peak of a step's rendering, with its gradient, and of the frozen weights.

    The activations of one step or of the decoder, whichever is larger, exist for one chunk at a time; of every item
    the code of each step (two with "dpm"), and the image. Without checkpoints all
    activations of all steps and items exist at once.
    """
    codec, sampling = items.codec, items.config.sampling
    assert isinstance(codec, DiffusionCodec)
    passes = 1 if sampling.guidance == 1 else 2
    of_step = passes * saved_bytes_per_item(_Predicting(codec.model), codec.code_shape)
    of_decoder = saved_bytes_per_item(_Decoding(codec), codec.code_shape)
    if items.config.checkpointed:
        activations = min(items.chunk_items, len(items)) * max(of_step, of_decoder)
    else:
        activations = len(items) * (sampling.num_steps * of_step + of_decoder)
    codes = (2 if sampling.solver == "dpm" else 1) * sampling.num_steps + KEPT_CODES
    kept = len(items) * VALUE_BYTES * (codes * codec.num_code_values + 3 * codec.num_image_values)
    weights = sum(value.numel() * value.element_size() for value in codec.parameters())
    return int(activations + kept + weights)


class _Predicting(nn.Module):
    """A model as a function of codes alone."""

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.predict(codes, 0, self.model.null.expand(len(codes), -1))


class _Decoding(nn.Module):
    """A codec's decoder as a module."""

    def __init__(self, codec: DiffusionCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec.decode(codes)
