"""Which diffusion model a codec of kind "diffusion" has; the codec itself is in the diffusion room."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.models.codecs.codec import CodecSettings

ClassNumber = Annotated[int, Field(ge=0, lt=1 << 20)]


class DiffusionCodecConfig(CodecSettings):
    """A frozen latent diffusion model.

    Args:
        path: the file of a prior (`attar train-prior`), or a folder in diffusers' layout, or its name under
            $ATTAR_WEIGHTS; None where a command has to name it.
        public: a prior's file is published beside the distilled one: it is named by content in place of being embedded.
        classes: which class of the model each class of the data is; None: by name, or where numbers agree, in order.
        random_seed: of random values in place of the model's (LD3M Table 3); None for the trained ones.
    """

    model = "diffusion"
    read_from_file = True
    kind: Literal["diffusion"] = "diffusion"
    path: str | None = Field(default=None, min_length=1)
    public: bool = False
    classes: tuple[ClassNumber, ...] | None = None
    random_seed: int | None = Field(default=None, ge=0)
