"""Which generator a codec of kind "generator" has; the codec itself is in the generators' room."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.models.codecs.codec import CodecSettings
from attar.models.codecs.diffusion import ClassNumber

_NAME = "[A-Za-z_][A-Za-z0-9_]{0,99}"

ImportPath = Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME}){{0,9}}:{_NAME}$")]
"""package.module:Name"""

Word = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{0,40}$")]
"""Too little for a path or an address: what is built may not be told to read anything."""

_Bounds = Field(ge=-(2**31), le=2**31)
Plain = bool | Annotated[int, _Bounds] | Annotated[float, _Bounds] | Word | None
Arguments = dict[Annotated[str, Field(pattern=f"^{_NAME}$")], Plain | tuple[Plain, ...]]


class GeneratorCodecConfig(CodecSettings):
    """A frozen generator of images.

    Args:
        path: of its weights, a safetensors file: one of `save_generator`, or with `module` any module's state dict;
            None where a command has to name it.
        module: "package.module:Name" of the code of others, which is imported and called with `arguments`; None for
            attar's own generator, whose file says its sizes.
        arguments: keywords for `module`: numbers, booleans, short words, and lists of them.
        public: attar's own generator is published beside the distilled file: it is named by content in place of being
            embedded. One of others always is.
        classes: which class of the generator each class of the data is; None: by name, or where numbers agree, in
            order.
    """

    model = "generator"
    read_from_file = True
    kind: Literal["generator"] = "generator"
    path: str | None = Field(default=None, min_length=1)
    module: ImportPath | None = None
    arguments: Arguments = Field(default={}, max_length=32)
    public: bool = False
    classes: tuple[ClassNumber, ...] | None = None
