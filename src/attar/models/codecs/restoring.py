"""Reading a codec back from a file that may be damaged or hostile: every value is checked before it is used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from attar.base.config import Config, ConfigType, parse_config
from attar.base.errors import InputError, unknown
from attar.base.files import canonical_json
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.weights import ID_PATTERN

Side = Annotated[int, Field(ge=1, le=4096)]
NetworkType = TypeVar("NetworkType", bound=nn.Module)
ImageShape = tuple[Annotated[int, Field(ge=1, le=3)], Side, Side]


class CodecSpec(Config):
    """What every codec's spec has."""

    image_shape: ImageShape


class PublicModel(ExternalWeights):
    """A public model, by content: `sha256` of its weights, `config_sha256` of its architecture."""

    id: str = Field(pattern=ID_PATTERN)
    config_sha256: str = Field(pattern="^[0-9a-f]{64}$")


def nameable(weights: ExternalWeights) -> ExternalWeights:
    """`weights`, where a distilled file can hold their file's name. Raises InputError where it cannot."""
    if re.fullmatch(ID_PATTERN, weights.id) is None:
        raise InputError(
            f"a distilled file cannot refer to weights of the name {weights.id[:80]!r}; rename their file: at most 100 "
            "characters, no full stop at the beginning, no colon or slash"
        )
    return weights


PublicFile = Annotated[ExternalWeights, AfterValidator(nameable)]
"""A file of weights beside the distilled one: its name, content and size."""


def restore_one_of(codecs: Iterable[type[Codec]], spec: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec of one of these kinds whose `spec()` and `stored_tensors()` are given. Raises InputError."""
    kinds = {codec.kind: codec for codec in codecs}
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown("codec", str(kind)[:80], kinds)
    return kinds[kind].restore(spec, tensors)


def parse_spec(model: type[ConfigType], spec: dict[str, Any]) -> ConfigType:
    """`spec` as a strict model. Raises InputError: one line that names the first value at fault."""
    try:
        text = canonical_json(spec)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the codec's description is not plain JSON ({error}); the file is damaged") from None
    return parse_config(model, text, "the codec's description")


def take_tensors(tensors: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Exactly the float32 tensors named in `shapes`, each of its shape and finite.

    Raises:
        InputError: a tensor is absent, superfluous, of another shape or type, or holds a value that is not finite.
    """
    if set(tensors) != set(shapes):
        raise InputError(f"the codec's tensors are {sorted(tensors)}; {sorted(shapes)} are needed; the file is damaged")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            received = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise InputError(f"the codec's tensor {name!r} is {received}; float32 of shape {shape} is needed")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"the codec's tensor {name!r} holds values that are not finite; the file is damaged")
    return dict(tensors)


def fill_network(network: NetworkType, tensors: Mapping[str, Tensor]) -> NetworkType:
    """`network`, e.g. one without storage, with exactly these values; frozen, in evaluation mode. Raises InputError."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(take_tensors(tensors, shapes), assign=True)
    return network.requires_grad_(False).eval()


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What `fill_network` takes: the network's values, on the CPU."""
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}


def require_positive(name: str, tensor: Tensor) -> None:
    """Raise InputError unless every value of `tensor` is above zero."""
    if not bool((tensor > 0).all()):
        raise InputError(f"the codec's tensor {name!r} must be positive and is not; the file is damaged")
