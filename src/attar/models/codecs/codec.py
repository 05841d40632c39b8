"""The contract of a codec: images to codes and back."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.files import canonical_json
from attar.base.shapes import Float
from attar.data.image_set import ImageSet


class ExternalWeights(Config):
    """Public weights that a file needs and does not contain.

    Args:
        id: a hub id, or the name of a folder or file without its path.
        sha256: of the weights' file; of several, of one after the other in order of name.
        num_bytes: size of the weights' files.
        num_values: number of parameters and buffers.
    """

    id: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    num_bytes: int = Field(gt=0)
    num_values: int = Field(gt=0)


class CodecSettings(Config, ABC):
    """The configuration of a codec of one kind.

    Attributes:
        names: what a codec of this kind may be called on the command line.
        affine: whether encoding and decoding are affine maps, so that augmentation of images may follow through codes.
        gives_inputs: whether its codes are network inputs: whole images, of which nothing is lost.
        model: of a codec that carries a frozen model which renders items, the kind of parameterization that uses it.
        read_from_file: whether the codec comes out of a file, so that its content is its identity and not its settings.
    """

    kind: str
    names: ClassVar[tuple[str, ...]]
    affine: ClassVar[bool] = False
    gives_inputs: ClassVar[bool] = False
    model: ClassVar[str | None] = None
    read_from_file: ClassVar[bool] = False

    @abstractmethod
    def fit(self, images: ImageSet) -> Codec:
        """The codec for images of this shape and, where it learns anything, fitted to them.

        Raises:
            InputError: the images do not suit the codec, or its weights cannot be found.
        """

    @classmethod
    @abstractmethod
    def from_text(cls, name: str, settings: str) -> CodecSettings:
        """The configuration that "name:settings" stands for, `settings` being "" for "name". Raises InputError."""

    def without_paths(self, codec: Codec) -> CodecSettings:
        """These settings, from which `fit` made `codec`, as a manifest may hold them: without paths."""
        return self


class Codec(nn.Module, ABC):
    """Images to codes and back, deterministic and frozen: no parameter of a codec ever requires a gradient.

    Attributes:
        kind: its name in the registry and in manifests.
        image_shape: (C, H, W).
        code_shape: (c, h, w).
        cheap: whether encoding costs about as much as reading, so that codes are not worth caching.
        latent: whether codes are anything but an image's values, normalised or whitened.
        pixelwise: whether each value of a code is that of one pixel.
        carries_model: whether items are rendered through a frozen model, of whose codes there is no other model.
        whitened_name: of the codec of this kind whose channels have unit variance; "" where there is none.
    """

    kind: ClassVar[str]
    latent: ClassVar[bool] = True
    pixelwise: bool = False
    carries_model: ClassVar[bool] = False
    whitened_name: str = ""
    cheap: bool = False
    image_shape: tuple[int, int, int]
    code_shape: tuple[int, int, int]
    _spec: Config

    @abstractmethod
    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        """Codes of float32 images in [0, 1]; about zero mean and unit variance over the data the codec was made for."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        """Images of codes, nominally in [0, 1] and not clamped; differentiable with respect to the codes."""

    def spec(self) -> dict[str, Any]:
        """JSON-able: with `stored_tensors`, everything that `restore` needs. Has "kind", "image_shape"."""
        return self._spec.model_dump(mode="json")

    @classmethod
    @abstractmethod
    def restore(cls, spec: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
        """The codec of this `spec` and these `stored_tensors`, e.g. out of a file that nobody vouches for.

        Raises:
            InputError: anything malformed, inconsistent, out of bounds or not finite; external weights absent.
        """

    def stored_tensors(self) -> dict[str, Tensor]:
        """What a distilled file embeds of this codec, float32; empty for closed-form and public decoders."""
        return {}

    def external(self) -> ExternalWeights | None:
        """Public weights that decoding needs beside the file, or None."""
        return None

    @property
    def network_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the picture that the encoder works on."""
        return self.image_shape

    @property
    def num_code_values(self) -> int:
        c, h, w = self.code_shape
        return c * h * w

    @property
    def num_image_values(self) -> int:
        c, h, w = self.image_shape
        return c * h * w

    def identity(self) -> str:
        """sha256 over spec, stored tensors and external weights: equal codecs give equal names."""
        external = self.external()
        digest = hashlib.sha256(canonical_json([self.spec(), external and external.sha256]).encode())
        for name, tensor in sorted(self.stored_tensors().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def codes_per_image(codec: Codec) -> int:
    """How many codes hold as many values as one image, at least 1: 3 f^2 / c.

    Source: LatentDD section 3.2 (12 at f = 4 and 48 at f = 8, with c = 4).
    """
    return max(1, codec.num_image_values // codec.num_code_values)
