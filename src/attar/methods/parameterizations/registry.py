"""Every kind of parameterization: one line each; and how one is read out of a file."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field
from torch import Tensor

from attar.base.config import parse_config
from attar.base.container import DTYPE_NAMES
from attar.base.errors import InputError, unknown
from attar.base.files import canonical_json
from attar.methods.parameterizations.codes import Codes, CodesConfig
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.methods.parameterizations.frequencies import Frequencies, FrequenciesConfig
from attar.methods.parameterizations.generator import GeneratorConfig, GeneratorItems
from attar.methods.parameterizations.mosaic import Mosaic, MosaicConfig
from attar.methods.parameterizations.parameterization import Parameterization, Table
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.models.codecs.codec import Codec

_Kinds: TypeAlias = (
    CodesConfig
    | MosaicConfig
    | PriorsConfig
    | DiffusionConfig
    | GeneratorConfig
    | FrequenciesConfig
)  # fmt: skip

AnyParameterization = Annotated[_Kinds, Field(discriminator="kind")]

REGISTRY: dict[str, type[Parameterization]] = {
    "codes": Codes,
    "mosaic": Mosaic,
    "priors": Priors,
    "diffusion": Diffusion,
    "generator": GeneratorItems,
    "frequencies": Frequencies,
}

LARGEST_SCALE = 1e30


def payload_table(spec: dict[str, Any], num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """Names, dtypes and shapes of the payload of `num_items` items. Raises InputError for a spec that is none."""
    kind, parsed = _parse(spec)
    return kind.table(parsed, num_items, code_shape, num_classes)


def canvas_grid(spec: dict[str, Any], num_items: int) -> tuple[int, int]:
    """How many canvases hold these items, and how many tiles lie along each of a canvas's sides."""
    side = getattr(_parse(spec)[1], "grid", 1)
    return num_items // (side * side), side


def can_be_remade(spec: dict[str, Any]) -> bool:
    """Whether the start of such items follows from the real images that they began as."""
    return _parse(spec)[0].remade is not Parameterization.remade


def check_payload(
    payload: dict[str, Tensor], spec: dict[str, Any], code_shape: tuple[int, int, int], num_classes: int | None = None
) -> None:
    """Raise InputError unless `payload` is what a parameterization with this spec stores, value by value.

    Args:
        payload: names to tensors.
        spec: the parameterization's own.
        code_shape: of its codec.
        num_classes: labels must lie below it, and soft labels have so many columns; None leaves both unchecked.
    """
    if "labels" not in payload or payload["labels"].ndim != 1 or not len(payload["labels"]):
        raise InputError("the payload has no labels, one for each item")
    labels = payload["labels"]
    columns = num_classes if num_classes is not None else _columns(payload)
    expected = payload_table(spec, len(labels), code_shape, columns)
    actual = {name: (DTYPE_NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in payload.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise InputError(f"payload tensor {name[:80]!r} is {actual.get(name)} and must be {expected.get(name)}")
    if int(labels.min()) < 0 or (num_classes is not None and int(labels.max()) >= num_classes):
        top = "" if num_classes is None else f"; with {num_classes} classes they must lie in 0..{num_classes - 1}"
        raise InputError(f"labels run from {int(labels.min())} to {int(labels.max())}{top}")
    for name, tensor in payload.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"payload tensor {name!r} has values that are not finite")
    if "scale" in payload and not bool(((payload["scale"] > 0) & (payload["scale"] < LARGEST_SCALE)).all()):
        raise InputError(f"payload tensor 'scale' has values that are not between 0 and {LARGEST_SCALE:.0e}")


def restore_parameterization(
    codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any], preprocess: Codec | None = None
) -> Parameterization:
    """Rebuild what `Parameterization.payload` and `.spec` gave.

    Args:
        codec: of the codes.
        payload: names to tensors.
        spec: the parameterization's own.
        preprocess: images to network inputs; a mosaic needs it.

    Raises:
        InputError: an unknown kind, or a payload that does not fit the spec and the codec.
    """
    check_payload(payload, spec, codec.code_shape)
    return _parse(spec)[0].restore(codec, payload, spec, preprocess)


def _columns(payload: dict[str, Tensor]) -> int:
    soft = payload.get("soft_labels")
    return 0 if soft is None else soft.shape[-1] if soft.ndim else 0


def _parse(spec: dict[str, Any]) -> tuple[type[Parameterization], Any]:
    name = spec.get("kind")
    if not isinstance(name, str) or name not in REGISTRY:
        raise unknown("parameterization", str(name)[:80], REGISTRY)
    return REGISTRY[name], parse_config(REGISTRY[name].spec_type, canonical_json(spec), f"parameterization {name!r}")
