"""Augmentation of images, carried out on their codes: exact where the codec is affine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.shapes import Float
from attar.data.augmentation import Augmentation, Dsa, DsaConfig, DsaParameters
from attar.models.codecs.codec import Codec

LARGEST_MATRIX = 1024


@dataclass(frozen=True)
class AffineMap:
    """codes -> codes @ matrix + offset, on flattened codes of v = c h w values."""

    matrix: Float[Tensor, "v v"]
    offset: Float[Tensor, " v"]


class CodeDsa:
    """Siamese DSA through an affine codec.

        A(code) = encode(augment(decode(code)))

    With one set of parameters for all items, every operation of DSA is an affine map of an image, and so is A of a
    code. Up to LARGEST_MATRIX values a code, A is found once a step from the codes of the unit basis, and a batch costs
    one matrix product instead of decoding, augmenting and encoding every item of it.

    Args:
        config: operations and strengths.
        codec: an affine one.
        preprocess: images to network inputs, on which DSA is defined.

    Source: DSA is of Zhao & Bilen 2021.
    Deviation: LatentDD section 3.3.1 augments no latent codes, for an autoencoder's codes do not follow most
        operations; those of an affine codec follow all of them.
    """

    per_item = False

    def __init__(self, config: DsaConfig, codec: Codec, preprocess: Codec) -> None:
        self._dsa, self._codec, self._preprocess = Dsa(config), codec, preprocess
        self._unit_inputs: Tensor | None = None

    def draw(
        self, batch_size: int, image_shape: tuple[int, int, int], generator: torch.Generator, siamese: bool
    ) -> AffineMap | DsaParameters:
        """What `apply` needs for one step; see `Dsa.draw`. Only siamese parameters are possible."""
        if not siamese:
            raise ValueError("codes are augmented with one set of parameters for all of them")
        parameters = self._dsa.draw(batch_size, self._codec.image_shape, generator, siamese=True)
        if self._codec.num_code_values > LARGEST_MATRIX:
            return parameters
        return self._affine(parameters)

    def apply(
        self, images: Float[Tensor, "items c h w"], parameters: AffineMap | DsaParameters
    ) -> Float[Tensor, "items c h w"]:
        """The augmented codes, differentiable with respect to the codes."""
        if isinstance(parameters, AffineMap):
            return torch.addmm(parameters.offset, images.flatten(1), parameters.matrix).view_as(images)
        return self._codes(self._dsa.apply(self._inputs(images), parameters))

    def _inputs(self, codes: Tensor) -> Tensor:
        return self._preprocess.encode(self._codec.decode(codes))

    def _codes(self, inputs: Tensor) -> Tensor:
        return self._codec.encode(self._preprocess.decode(inputs))

    @torch.no_grad()
    def _affine(self, parameters: DsaParameters) -> AffineMap:
        """The rows A(e_i) - A(0) for every unit code e_i, and A(0). The unit codes are decoded once."""
        values = self._codec.num_code_values
        device = next(self._codec.buffers()).device
        if self._unit_inputs is None or self._unit_inputs.device != device:
            units = torch.cat([torch.zeros(1, values, device=device), torch.eye(values, device=device)])
            self._unit_inputs = self._inputs(units.view(-1, *self._codec.code_shape))
        codes = self._codes(self._dsa.apply(self._unit_inputs, parameters)).flatten(1)
        return AffineMap(codes[1:] - codes[0], codes[0])


def siamese_augmentation(config: DsaConfig | None, codec: Codec, preprocess: Codec) -> Augmentation | None:
    """The augmentation of a codec's items: DSA itself where they are network inputs, else DSA through the codec."""
    if config is None:
        return None
    return Dsa(config) if codec is preprocess else CodeDsa(config, codec, preprocess)
