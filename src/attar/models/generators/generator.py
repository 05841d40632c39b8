"""What a generator must offer: attar's own and its files, and code of others, which runs only where a user names it."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.container import one_line
from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.frozen import ModelManifest, NumClasses, read_model, write_model
from attar.models.codecs.restoring import ImageShape, fill_network, network_tensors
from attar.models.codecs.weights import file_weights, read_tensors
from attar.models.networks.network import LARGEST_VALUES
from attar.models.networks.synthesis import Synthesis, SynthesisConfig, synthesis_shell

VARIABLE = "ATTAR_GENERATORS"
"""Names the code of others that may run to render files: package.module:Name, several with commas between them."""

SHAPES = {"image_shape": (3,), "latent_shape": (1, 2, 3)}
"""Attributes that are shapes -> how many sides they may have."""

NUMBERS = ("noise_size", "num_classes", "num_layers")
METHODS = ("mapping", "features")

_Made = TypeVar("_Made")


class Generator(Protocol):
    """A torch module that makes images of w, and of w with a map from inside itself; deterministic.

    Attributes:
        image_shape: (C, H, W).
        latent_shape: of w, (d,), or (m, d) where layers have a w each.
        noise_size: of z.
        num_classes: K; 0 where it knows no classes, and is given 0 for every item.
        num_layers: N, the deepest n of a map f_n that may take the place of the layers before it; at least 0.
    """

    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    noise_size: int
    num_classes: int
    num_layers: int

    def mapping(self, noise: Float[Tensor, "batch z"], classes: Int64[Tensor, " batch"]) -> Tensor:
        """w [B, ...] of noise from N(0, I) and a class."""

    def features(self, latents: Tensor, depth: int) -> Float[Tensor, "batch c h w"]:
        """f_n of w, n = depth, 1 to N."""

    def __call__(self, latents: Tensor, features: Tensor | None = None, depth: int = 0) -> Float[Tensor, "batch C H W"]:
        """Images, nominally in [0, 1]: G(w), or G(w, f_n)."""


def require_named(module: str) -> None:
    """Raise InputError where $ATTAR_GENERATORS lacks `module`: what a file says is never a reason to run code."""
    if module not in os.environ.get(VARIABLE, "").replace(" ", "").split(","):
        raise InputError(
            f"its images are made by the code {module!r}, which is not run because a file names it; if you have it and "
            f"trust it, set {VARIABLE}={module}"
        )


def imported(module: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The generator that `module` makes of `arguments`, with the values of `state`, on the CPU, frozen.

    Args:
        module: "package.module:Name". It is imported and called: name only what you trust.
        arguments: keywords.
        state: names to tensors, exactly those of the module's own state dict; float ones are read as float32.

    Raises:
        InputError: it cannot be imported or made, is not as `Generator` says, or has another state; one line.
    """
    make = _named(module)
    keywords = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    with torch.random.fork_rng(devices=[]):  # modules draw values also where others then take their place
        with torch.device("meta"):
            shell = _attempt(module, lambda: make(**keywords))
        _check_state(module, shell, state)
        network = _attempt(module, lambda: make(**keywords))
    _check_attributes(module, network)
    values = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    _attempt(module, lambda: network.load_state_dict(values))
    return network.float().requires_grad_(False).eval()


def _named(module: str) -> Callable[..., Any]:
    package, _, name = module.partition(":")
    make: Callable[..., Any] | None = getattr(_attempt(module, lambda: importlib.import_module(package)), name, None)
    if not callable(make):
        raise InputError(f"{package!r} has no {name!r} to make a generator with; give package.module:Name")
    return make


def _attempt(module: str, work: Callable[[], _Made]) -> _Made:
    """The result of `work`; InputError in place of whatever the code of others raises."""
    try:
        return work()
    except Exception as error:
        raise InputError(f"the generator {module!r} cannot be made ({one_line(error)})") from error


def _check_state(module: str, shell: Any, state: Mapping[str, Tensor]) -> None:
    """Compare sizes, all of which are known before anything is allocated."""
    if not isinstance(shell, nn.Module):
        raise InputError(f"{module!r} makes a {type(shell).__name__}; a torch module is needed")
    needed = {name: tuple(value.shape) for name, value in shell.state_dict().items()}
    if sum(map(math.prod, needed.values())) > LARGEST_VALUES:
        raise InputError(f"the generator {module!r} has more than {LARGEST_VALUES} values")
    given = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(needed.keys() | given.keys()):
        if needed.get(name) != given.get(name):
            raise InputError(
                f"the weights' {name[:80]!r} has shape {given.get(name)} and the generator {module!r} needs "
                f"{needed.get(name)}; give the arguments and the state dict of one and the same module"
            )


def _check_attributes(module: str, network: Any) -> None:
    for name, lengths in SHAPES.items():
        shape = getattr(network, name, None)
        whole = isinstance(shape, tuple) and all(type(side) is int and side > 0 for side in shape)
        if not isinstance(shape, tuple) or not whole or len(shape) not in lengths:
            raise InputError(f"the generator {module!r} has {name} {shape!r}; a tuple of whole numbers is needed")
    for name in NUMBERS:
        number = getattr(network, name, None)
        if type(number) is not int or number < 0:
            raise InputError(f"the generator {module!r} has no number {name!r}, which docs/diffusion.md describes")
    for name in METHODS:
        if not callable(getattr(network, name, None)):
            raise InputError(f"the generator {module!r} has no method {name!r}, which docs/diffusion.md describes")


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
    tensors = read_tensors(path)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: tensor {name[:80]!r} has values that are not finite")
    return tensors, file_weights(path, tensors)
