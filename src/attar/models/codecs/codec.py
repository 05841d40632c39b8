"""The contract of a codec: images to codes and back."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.files import canonical_json
from attar.base.shapes import Float


class ExternalWeights(Config):
    """Public weights that a file needs and does not contain.

    Args:
        id: where they come from, e.g. a hub id, or a local folder's name without its path.
        sha256: of the weights' file.
        num_bytes: size of the weights' file.
        num_values: parameters and buffers, counted singly.
    """

    id: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    num_bytes: int = Field(gt=0)
    num_values: int = Field(gt=0)


RestoreCodec: TypeAlias = "Callable[[dict[str, Any], dict[str, Tensor]], Codec]"
"""The registry's `restore_codec`, handed to a codec that has another inside."""


class CodecSettings(Config):
    """What the configurations of all kinds of codecs have.

    Attributes:
        affine: whether encoding and decoding are affine maps, so that augmentation of images may follow through codes.
        model: of a codec that carries a frozen model which renders items, the kind of parameterization that uses it.
        read_from_file: whether the codec comes out of a file, so that its content is its identity and not its settings.
    """

    kind: str
    affine: ClassVar[bool] = False
    model: ClassVar[str | None] = None
    read_from_file: ClassVar[bool] = False


class Codec(nn.Module, ABC):
    """Images to codes and back, deterministic and frozen: no parameter of a codec ever requires a gradient.

    Attributes:
        kind: its name in the registry and in manifests.
        image_shape: (C, H, W).
        code_shape: (c, h, w).
        cheap: True where encoding costs about as much as reading, so that codes are not worth caching.
    """

    kind: ClassVar[str]
    cheap: bool = False
    image_shape: tuple[int, int, int]
    code_shape: tuple[int, int, int]

    @abstractmethod
    def encode(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items c h w"]:
        """Codes of float32 images in [0, 1]; about zero mean and unit variance over the data the codec was made for."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items C H W"]:
        """Images of codes, nominally in [0, 1] and not clamped; differentiable with respect to the codes."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able: with `stored_tensors`, everything that `restore_codec` needs. Has "kind", "image_shape"."""

    def stored_tensors(self) -> dict[str, Tensor]:
        """What a distilled file embeds of this codec (float32); empty for closed-form and public decoders."""
        return {}

    def external(self) -> ExternalWeights | None:
        """Public weights that decoding needs beside the file, or None."""
        return None

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
    """How many codes hold as many values as one image, at least 1.

    LatentDD's 3 f^2 / c: 12 at f = 4 and 48 at f = 8, with c = 4.

    Source: LatentDD section 3.2.
    """
    return max(1, codec.num_image_values // codec.num_code_values)
