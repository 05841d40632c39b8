"""Every kind of parameterization a file may hold, and how it is rebuilt from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.container import DTYPE_NAMES
from attar.base.errors import InputError, unknown
from attar.base.files import canonical_json
from attar.data.tiling import Grid
from attar.methods.parameterizations.codes import Codes, CodesSpec
from attar.methods.parameterizations.decoders import decoder_table
from attar.methods.parameterizations.diffusion import CLASSES, CONDITIONING, Diffusion, DiffusionSpec
from attar.methods.parameterizations.generator import FEATURES, GeneratorItems, GeneratorSpec
from attar.methods.parameterizations.mosaic import Mosaic, MosaicSpec
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.priors import DECODER, Priors, PriorsSpec
from attar.models.codecs.codec import Codec

LARGEST_SCALE = 1e30
Table = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Kind:
    """How one kind is read.

    Args:
        config: what its spec must be.
        table: (config, number of items, code shape, number of classes) to the payload's dtypes and shapes.
        restore: (codec, payload, spec, codec that makes network inputs) to the parameterization.
    """

    config: type[Config]
    table: Callable[[Any, int, tuple[int, int, int], int], Table]
    restore: Callable[[Codec, dict[str, Tensor], dict[str, Any], Codec | None], Parameterization]


DTYPE_OF = {"float32": "F32", "float16": "F16", "int8": "I8"}


def codes_table(config: CodesSpec, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """What `store_codes` gives, int32 labels, and the logits of soft labels where there are any."""
    table: Table = {"codes": (DTYPE_OF[config.storage], (num_items, *code_shape)), "labels": ("I32", (num_items,))}
    if config.storage == "int8":
        table["scale"] = ("F32", (code_shape[0],))
    if config.label_storage is not None:
        table["soft_labels"] = (DTYPE_OF[config.label_storage], (num_items, num_classes))
    return table


def mosaic_table(config: MosaicSpec, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """As of codes, with one code for each canvas. Raises InputError where the items do not fill the canvases."""
    num_tiles = Grid(config.grid).num_tiles
    if num_items % num_tiles:
        raise InputError(f"{num_items} items do not fill canvases of {num_tiles} tiles; the file is damaged")
    table = codes_table(config, num_items, code_shape, num_classes)
    return table | {"codes": (DTYPE_OF[config.storage], (num_items // num_tiles, *code_shape))}


def priors_table(config: PriorsSpec, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """Means, log-variances where the items are sampled, labels and the decoder; nothing is allocated."""
    shape = (num_items, config.decoder.num_latents)
    table: Table = {"mean": (DTYPE_OF[config.storage], shape), "labels": ("I32", (num_items,))}
    if config.distribution == "gaussian":
        table["log_variance"] = table["mean"]
    if config.label_storage is not None:
        table["soft_labels"] = (DTYPE_OF[config.label_storage], (num_items, num_classes))
    weights = decoder_table(config.decoder, code_shape, config.storage)
    return table | {DECODER + name: entry for name, entry in weights.items()}


def diffusion_table(config: DiffusionSpec, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """As of codes with hard labels; conditioning where it is learned, else its class in the model."""
    table = codes_table(CodesSpec(storage=config.storage), num_items, code_shape, num_classes)
    if config.learned == "codes":
        return table | {CLASSES: ("I32", (num_items,))}
    dtype = "F32" if config.storage == "float32" else "F16"
    return table | {CONDITIONING: (dtype, (num_items, config.conditioning_size))}


def generator_table(config: GeneratorSpec, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """w, hard labels, and the map where one is learned."""
    table = codes_table(CodesSpec(storage=config.storage), num_items, code_shape, num_classes)
    if config.feature_shape is not None:
        table[FEATURES] = (DTYPE_OF[config.storage], (num_items, *config.feature_shape))
    return table


REGISTRY = {
    "codes": Kind(CodesSpec, codes_table, lambda codec, payload, spec, _: Codes.restore(codec, payload, spec)),
    "mosaic": Kind(MosaicSpec, mosaic_table, Mosaic.restore),
    "diffusion": Kind(DiffusionSpec, diffusion_table, Diffusion.restore),
    "generator": Kind(GeneratorSpec, generator_table, GeneratorItems.restore),
    "priors": Kind(PriorsSpec, priors_table, lambda codec, payload, spec, _: Priors.restore(codec, payload, spec)),
}


def payload_table(spec: dict[str, Any], num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
    """Names, dtypes and shapes of the payload of `num_items` items. Raises InputError for a spec that is none."""
    kind, config = _parse(spec)
    return kind.table(config, num_items, code_shape, num_classes)


def canvas_grid(spec: dict[str, Any], num_items: int) -> tuple[int, int]:
    """How many canvases hold these items, and how many tiles lie along each of a canvas's sides."""
    side = getattr(_parse(spec)[1], "grid", 1)
    return num_items // (side * side), side


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
    found = {name: (DTYPE_NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in payload.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(f"payload tensor {name[:80]!r} is {found.get(name)} and must be {expected.get(name)}")
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


def _parse(spec: dict[str, Any]) -> tuple[Kind, Config]:
    name = spec.get("kind")
    if not isinstance(name, str) or name not in REGISTRY:
        raise unknown("parameterization", str(name)[:80], REGISTRY)
    kind = REGISTRY[name]
    return kind, parse_config(kind.config, canonical_json(spec), f"parameterization {name!r}")
