"""Files of generators' weights, read without trust: attar's own, which says all that it is, and any state dict."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.container import one_line, pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, canonical_json, sha256_of
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.restoring import ImageShape, take_tensors
from attar.models.codecs.weights import PICKLES, VARIABLE, named_file
from attar.models.networks.synthesis import Synthesis, SynthesisConfig, synthesis_shell


class OwnSpec(Config):
    """A generator of attar's own: its sizes; its values are tensors."""

    kind: Literal["own"] = "own"
    synthesis: SynthesisConfig
    num_classes: int = Field(ge=1, le=1 << 20)


class GeneratorManifest(Config):
    """What the file of a generator of attar's own says about itself.

    Args:
        schema_version: of the file.
        generator: sizes and number of classes.
        image_shape: (C, H, W).
        classes: K names, in the order of the embeddings.
        data: fingerprint of the training images; "" where it was trained elsewhere.
        attar_version: that wrote the file.
        torch_version: that wrote the file.
    """

    schema_version: Literal[1] = 1
    generator: OwnSpec
    image_shape: ImageShape
    classes: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(min_length=1, max_length=1 << 20)
    data: str = ""
    attar_version: str
    torch_version: str


@dataclass(frozen=True)
class OwnGenerator:
    """What a file of `save_generator` holds.

    Args:
        network: frozen.
        classes: names.
        weights: the file itself, as weights beside a distilled file; its id is the file's name.
    """

    network: Synthesis
    classes: tuple[str, ...]
    weights: ExternalWeights


def save_generator(network: Synthesis, path: Path | str, classes: Sequence[str], data: str = "") -> None:
    """Writes a generator of attar's own; the file appears whole or not at all, and equal ones give equal bytes.

    Args:
        network: with its values.
        path: of the file.
        classes: K names, in the order of the embeddings.
        data: fingerprint of the training images.
    """
    from attar.base.version import __version__

    manifest = GeneratorManifest(
        generator=own_spec(network),
        image_shape=network.image_shape,
        classes=tuple(classes),
        data=data,
        attar_version=__version__,
        torch_version=torch.__version__,
    )
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(pack(canonical_json(manifest.model_dump(mode="json")), own_tensors(network)))


def own_spec(network: Synthesis) -> OwnSpec:
    """What rebuilds a generator with `own_tensors`."""
    return OwnSpec(synthesis=network.config, num_classes=network.num_classes)


def own_tensors(network: Synthesis) -> dict[str, Tensor]:
    """Its values, on the CPU."""
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}


def restore_own(spec: OwnSpec, image_shape: tuple[int, int, int], tensors: dict[str, Tensor]) -> Synthesis:
    """Rebuild from `own_spec` and `own_tensors`, frozen. Raises InputError where they do not fit one another."""
    network = synthesis_shell(spec.synthesis, image_shape, spec.num_classes)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(take_tensors(tensors, shapes), assign=True)
    return network.requires_grad_(False).eval()


def read_generator(path: Path) -> OwnGenerator:
    """The generator in a file of `save_generator`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or one of another kind.
    """
    try:
        text, tensors = unpack(path)
        manifest = parse_config(GeneratorManifest, text, "its manifest")
        if len(manifest.classes) != manifest.generator.num_classes:
            raise InputError("its classes are not those of its generator")
        network = restore_own(manifest.generator, manifest.image_shape, tensors)
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as a generator of attar's own ({error}); save it again with save_generator, or "
            "say whose code it is: --set codec.module=package.module:Name"
        ) from None
    return OwnGenerator(network, manifest.classes, _weights(path, tensors))


def read_state(path: Path) -> tuple[dict[str, Tensor], ExternalWeights]:
    """The state dict in a safetensors file of any module, and the file as weights beside a distilled one.

    Raises:
        InputError: no such file, a pickle, a damaged file, or values that are not finite.
    """
    if path.suffix in (*PICKLES, ".pkl", ".pickle"):
        raise InputError(
            f"{path} is pickled, which could run code, and is not read; load it where it is trusted and save its state "
            "dict with safetensors.torch.save_file"
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a regular file; give a generator's .safetensors file")
        tensors = load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({one_line(error)}); save it again") from None
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: tensor {name[:80]!r} has values that are not finite")
    return tensors, _weights(path, tensors)


def require_file(weights: ExternalWeights) -> Path:
    """The generator's file of this content, from $ATTAR_WEIGHTS.

    Raises:
        InputError: it is absent, or what has its name differs: says what is needed and how to provide it.
    """
    found = named_file(weights)
    if found is None:
        raise InputError(
            f"this needs the generator {weights.id!r} ({weights.num_bytes} bytes, sha256 {weights.sha256}), which is "
            f"absent; set {VARIABLE} to the folder that contains it"
        )
    return found


def _weights(path: Path, tensors: dict[str, Tensor]) -> ExternalWeights:
    num_values = sum(value.numel() for value in tensors.values())
    return ExternalWeights(id=path.name, sha256=sha256_of(path), num_bytes=path.stat().st_size, num_values=num_values)
