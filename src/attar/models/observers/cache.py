"""Observers on disk: one file each, which says all that it is and is read without trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from attar.base.config import Config, parse_config
from attar.base.container import METADATA_KEY, pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory, canonical_json
from attar.base.version import __version__
from attar.models.codecs.pixels import Pixels
from attar.models.codecs.restoring import ImageShape
from attar.models.networks.network import NetworkConfig
from attar.models.observers.observer import Observer
from attar.models.observers.weights import PREPROCESS, loaded_network

SCHEMA_VERSION = 1


class ObserverManifest(Config):
    """What an observer's file says about itself.

    Args:
        schema_version: of the file.
        identity: of the observer; what is read must have it.
        network: the architecture.
        input_shape: (c, h, w).
        classes: K names.
        preprocess: the spec of its pixels codec.
        accuracy: percent of checked training images.
        source: "trained", or the name of its weights.
        attar_version: that wrote the file.
        torch_version: that wrote the file.
    """

    schema_version: Literal[1] = 1
    identity: str = Field(pattern="^[0-9a-f]{64}$")
    network: NetworkConfig
    input_shape: ImageShape
    classes: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(min_length=2, max_length=1 << 20)
    preprocess: dict[str, Any]
    accuracy: float = Field(ge=0, le=100)
    source: str
    attar_version: str
    torch_version: str


def folder() -> Path:
    """Where in the cache observers are."""
    return cache_directory("observers")


def save_observer(observer: Observer, path: Path, source: str) -> None:
    """Writes a checked observer; the file appears whole or not at all, and equal observers give equal bytes."""
    manifest = ObserverManifest(
        identity=observer.identity,
        network=observer.config,
        input_shape=observer.network.input_shape,
        classes=observer.classes,
        preprocess=observer.preprocess.spec(),
        accuracy=observer.accuracy,
        source=source,
        attar_version=__version__,
        torch_version=torch.__version__,
    )
    stored = {PREPROCESS + name: value for name, value in observer.preprocess.stored_tensors().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack(canonical_json(manifest.model_dump(mode="json")), {**observer.weights(), **stored}))


def read_observer(path: Path) -> Observer:
    """The observer in a file of `save_observer`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or one whose content is not what it says.
    """
    try:
        text, tensors = unpack(path)
        manifest = parse_config(ObserverManifest, text, "its manifest")
        names = [name for name in tensors if name.startswith(PREPROCESS)]
        stored = {name.removeprefix(PREPROCESS): tensors.pop(name) for name in names}
        preprocess = Pixels.restore(manifest.preprocess, stored)
        if preprocess.image_shape != manifest.input_shape:
            raise InputError(f"its inputs are {manifest.input_shape} and its images {preprocess.image_shape}")
        num_classes = len(manifest.classes)
        network = loaded_network(manifest.network, manifest.input_shape, num_classes, tensors, "the file")
        observer = Observer(network, manifest.network, preprocess, manifest.classes, manifest.accuracy)
        if observer.identity != manifest.identity:
            raise InputError("its content has another identity than it says")
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as an observer ({error}); delete it, and the command that made it makes it again"
        ) from None
    return observer


def cached_path(identity: str) -> Path | None:
    """The cache's file of the observer of this identity, by what the files say of themselves; None if none does."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder().glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as file:
                text = (file.metadata() or {}).get(METADATA_KEY, "")
            if parse_config(ObserverManifest, text, "manifest").identity == identity:
                return path
        except (OSError, SafetensorError, InputError):  # a file that claims nothing
            continue
    return None


def cached_observer(identity: str) -> Observer | None:
    """The observer of this identity from the cache, on the CPU; None where it is not there.

    Raises:
        InputError: its file is damaged.
    """
    path = cached_path(identity)
    return None if path is None else read_observer(path)
