"""What codecs with a frozen model share: settings, which of the model's classes are the data's, files of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.container import pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, canonical_json
from attar.base.version import __version__
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec, CodecSettings

MOST_CLASSES = 1 << 20
NumClasses = Annotated[int, Field(ge=1, le=MOST_CLASSES)]
ClassNumber = Annotated[int, Field(ge=0, lt=MOST_CLASSES)]
ClassName = Annotated[str, Field(max_length=1000)]
ManifestType = TypeVar("ManifestType", bound="ModelManifest")


class FrozenModelConfig(CodecSettings):
    """A codec with a frozen model that renders items.

    Args:
        path: of the model; None where a command has to name it.
        public: the model's file is published beside the distilled one: it is named by content in place of being
            embedded.
        classes: which class of the model each class of the data is; None: by name, or where numbers agree, in order.
    """

    read_from_file = True
    example: ClassVar[str]
    path: str | None = Field(default=None, min_length=1)
    public: bool = False
    classes: tuple[ClassNumber, ...] | None = None

    @classmethod
    def from_text(cls, name: str, settings: str) -> FrozenModelConfig:
        if not settings:
            raise InputError(f"codec {name!r} needs a model; write {cls.example}")
        return cls(path=settings)  # type: ignore[call-arg]

    def without_paths(self, codec: Codec) -> FrozenModelConfig:
        return self.model_copy(update={"path": None if self.path is None else Path(self.path).name})

    def model_classes(self, what: str, images: ImageSet, names: tuple[str, ...], num_classes: int) -> dict[str, int]:
        """The model's class for each name of the data's.

        Args:
            what: what messages call it, "model" or "generator".
            images: of the data.
            names: of the model's classes, where it knows them; without any, as many classes are taken in their order.
            num_classes: of the model.

        Raises:
            InputError: numbers for other classes than there are, or classes that cannot be found.
        """
        data_names, count = images.classes, images.num_classes
        if self.classes is not None:
            if len(self.classes) != count:
                raise InputError(
                    f"codec.classes has {len(self.classes)} numbers for {count} classes; give one for each"
                )
            return dict(zip(data_names, self.classes, strict=True))
        if set(data_names) <= set(names):
            return {name: names.index(name) for name in data_names}
        if not names and num_classes == count:
            return {name: number for number, name in enumerate(data_names)}
        missing = next((name for name in data_names if name not in names), data_names[0])
        raise InputError(
            f"the {what}'s {num_classes} classes are not these {count} (e.g. {missing!r}); give the {what}'s number of "
            "each, --set codec.classes=[...]"
        )


class ModelManifest(Config):
    """What the file of a model of attar's own says about itself.

    Args:
        schema_version: of the file.
        classes: K names, in the order of the embeddings.
        data: fingerprint of the training images; "" where it was trained elsewhere.
        attar_version: that wrote the file.
        torch_version: that wrote the file.
    """

    schema_version: Literal[1] = 1
    classes: tuple[ClassName, ...] = Field(min_length=1, max_length=MOST_CLASSES)
    data: str = ""
    attar_version: str
    torch_version: str


def write_model(path: Path, kind: type[ModelManifest], tensors: dict[str, Tensor], **facts: Any) -> None:
    """Write a model; the file appears whole or not at all, and equal models give equal bytes.

    Args:
        path: of the file.
        kind: of its manifest.
        tensors: the values.
        **facts: fields of the manifest.
    """
    manifest = kind(attar_version=__version__, torch_version=str(torch.__version__), **facts)
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack(canonical_json(manifest.model_dump(mode="json")), tensors))


def read_model(path: Path, kind: type[ManifestType]) -> tuple[ManifestType, dict[str, Tensor]]:
    """Manifest and tensors of a file of `write_model`; nothing in it is trusted. Raises InputError."""
    text, tensors = unpack(path)
    return parse_config(kind, text, "its manifest"), tensors
