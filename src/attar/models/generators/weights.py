"""Files of generators' weights, read without trust: attar's own, which says all that it is, and any state dict."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attar.base.config import Config
from attar.base.container import one_line
from attar.base.errors import InputError
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.frozen import ModelManifest, NumClasses, read_model, write_model
from attar.models.codecs.restoring import ImageShape, fill_network, network_tensors
from attar.models.codecs.weights import PICKLES, file_weights
from attar.models.networks.synthesis import Synthesis, SynthesisConfig, synthesis_shell


class OwnSpec(Config):
    """The sizes of a generator of attar's own, whose values are tensors."""

    kind: Literal["own"] = "own"
    synthesis: SynthesisConfig
    num_classes: NumClasses

    @classmethod
    def of(cls, network: Synthesis) -> OwnSpec:
        return cls(synthesis=network.config, num_classes=network.num_classes)

    def restore(self, image_shape: tuple[int, int, int], tensors: dict[str, Tensor]) -> Synthesis:
        """The network of these sizes and values. Raises InputError where they do not fit one another."""
        return fill_network(synthesis_shell(self.synthesis, image_shape, self.num_classes), tensors)


class GeneratorManifest(ModelManifest):
    """What the file of a generator of attar's own says about itself.

    Args:
        generator: sizes and number of classes.
        image_shape: (C, H, W).
    """

    generator: OwnSpec
    image_shape: ImageShape


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
    """Write a generator of attar's own; the file appears whole or not at all, and equal ones give equal bytes.

    Args:
        network: with its values.
        path: of the file.
        classes: K names, in the order of the embeddings.
        data: fingerprint of the training images.
    """
    facts = {"generator": OwnSpec.of(network), "image_shape": network.image_shape, "classes": tuple(classes)}
    write_model(Path(path), GeneratorManifest, network_tensors(network), data=data, **facts)


def read_generator(path: Path) -> OwnGenerator:
    """The generator in a file of `save_generator`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or one of another kind.
    """
    try:
        manifest, tensors = read_model(path, GeneratorManifest)
        if len(manifest.classes) != manifest.generator.num_classes:
            raise InputError("its classes are not those of its generator")
        network = manifest.generator.restore(manifest.image_shape, tensors)
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as a generator of attar's own ({error}); save it again with save_generator, or "
            "say whose code it is: --set codec.module=package.module:Name"
        ) from None
    return OwnGenerator(network, manifest.classes, file_weights(path, tensors))


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
    return tensors, file_weights(path, tensors)
