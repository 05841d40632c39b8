"""What a manifest says of a run and its items."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.codecs.registry import restore_codec
from attar.sets.manifest import (
    REAL_INITIALIZATIONS,
    CodecSpec,
    DataProvenance,
    InitialProvenance,
    Manifest,
    RegionSpec,
    ShardSpec,
    TensorSpec,
    label_facts,
    read_manifest,
)


def compose_manifest(
    preprocess: CodecSpec,
    shards: Sequence[ShardSpec],
    classes: Sequence[str],
    recipe: Mapping[str, Any],
    data: tuple[str, ImageSet] | DataProvenance,
    initial: tuple[str, Sequence[int]] | InitialProvenance,
    seed: int,
    device: str,
    network: Mapping[str, Any] | None,
    scores: Sequence[Mapping[str, Any]],
    learned: Mapping[str, float] | None,
) -> Manifest:
    """The manifest of these shards, not sealed yet; the arguments are those of `DistilledSet.build`.

    Raises:
        InputError: class names or learned numbers that a file cannot hold, or facts that are not JSON.
    """
    learned = learned or {}
    for name, value in learned.items():
        if not math.isfinite(value):
            raise InputError(f"the learned number {name!r} is {value}; lower the rate at which it is learned")
    if not isinstance(data, DataProvenance):
        name, images = data
        data = DataProvenance(name=without_folders(name), fingerprint=images.fingerprint, num_items=len(images))
    if not isinstance(initial, InitialProvenance):
        kind, indices = initial
        real = kind in REAL_INITIALIZATIONS
        initial = InitialProvenance(kind=kind, indices=tuple(map(int, indices)), real_pixels_inside=real)
    tree = {
        **label_facts(shards, learned),
        "attar_version": _version(),
        "classes": list(classes),
        "image_shape": preprocess.spec["image_shape"],
        "preprocess": preprocess,
        "shards": shards,
        "recipe": without_folders(recipe),
        "learned": {name: float(value) for name, value in learned.items()},
        "data": data,
        "seed": seed,
        "device": device,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "initialization": initial,
        "citations": recipe.get("citations", ()),
        "privacy": privacy_statement(initial.real_pixels_inside, recipe.get("steps", 1)),
        "network": recipe.get("evaluation_network") if network is None else network,
        "scores": scores,
    }
    return read_manifest(canonical_json(to_plain(tree)), "the distilled set")


def describe_codec(codec: Codec) -> CodecSpec:
    """What a manifest says of `codec`."""
    return CodecSpec(
        spec=json.loads(canonical_json(codec.spec())),
        identity=codec.identity(),
        code_shape=codec.code_shape,
        external=codec.external(),
        tensors={name: TensorSpec.of(tensor) for name, tensor in codec.stored_tensors().items()},
    )


def describe_shard(
    parameterization: dict[str, Any],
    codec: CodecSpec,
    tensors: dict[str, TensorSpec],
    regions: RegionSpec | None = None,
) -> ShardSpec:
    """What a manifest says of items with this payload, and with these region labels where there are any."""
    num_items = tensors["labels"].shape[0]
    return ShardSpec(
        parameterization=parameterization, codec=codec, num_items=num_items, tensors=tensors, regions=regions
    )


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Each tensor's dtype and shape."""
    return {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}


def table_specs(table: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, TensorSpec]:
    """Dtypes and shapes, by name, as a manifest has them."""
    return {name: TensorSpec(dtype=dtype, shape=shape) for name, (dtype, shape) in table.items()}  # type: ignore[arg-type]


def without_folders(value: Any) -> Any:
    """`value` with every absolute path in it shortened to its last part: a file never tells where it was made."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str | Path):
        text = str(value)
        if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~"):
            return (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).name
        return text
    return value


def privacy_statement(real_pixels_inside: bool, steps: int) -> str:
    """What may be expected of a set's privacy: never a guarantee."""
    if not real_pixels_inside:
        return "No differential-privacy guarantee. No item began as a real image; items were fitted to real images."
    if steps:
        return "No differential-privacy guarantee. Items began as real training images and may still show them."
    return "No differential-privacy guarantee. Items are real training images, as the codec renders them."


def to_plain(value: Any) -> Any:
    """`value` with models, tuples and mappings turned into what JSON has."""
    return to_jsonable_python(value)


def _version() -> str:
    try:
        return version("attar")
    except PackageNotFoundError:
        return "unknown"


def codec_tensors(manifest: Manifest, codecs: Mapping[str, Codec]) -> dict[str, Tensor]:
    """The tensors of codecs, by identity, at the first place that names each."""
    return {
        manifest.codec_prefix(identity) + name: at_rest(tensor)
        for identity, codec in codecs.items()
        for name, tensor in codec.stored_tensors().items()
    }


def shard_tensors(payloads: Sequence[Mapping[str, Tensor]], prefix: str = "") -> dict[str, Tensor]:
    """One mapping for each shard, as one of full names."""
    return {
        f"shards.{i}.{prefix}{name}": tensor for i, payload in enumerate(payloads) for name, tensor in payload.items()
    }


def at_rest(tensor: Tensor) -> Tensor:
    """A copy of its own memory on the CPU."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def restored_codec(
    spec: CodecSpec, tensors: Mapping[str, Tensor], image_shape: tuple[int, int, int], where: str
) -> Codec:
    """The codec that a manifest describes.

    Args:
        spec: the description.
        tensors: what the file holds of it.
        image_shape: of the set.
        where: what error messages call the set.

    Raises:
        InputError: public weights that are absent, or a codec that is not the one announced.
    """
    kind = str(spec.spec.get("kind"))[:80]
    try:
        codec = restore_codec(spec.spec, dict(tensors))
    except InputError as error:
        raise InputError(f"{where}: {_absence(spec, kind)}: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{where}: codec {kind!r} cannot be restored: {one_line(error)}") from None
    if codec.identity() != spec.identity or codec.external() != spec.external:
        raise InputError(f"{where}: codec {kind!r} is not the one this file was made with")
    if codec.code_shape != spec.code_shape or codec.image_shape != image_shape:
        raise InputError(f"{where}: codec {kind!r} makes images or codes of another shape than announced")
    return codec


def _absence(spec: CodecSpec, kind: str) -> str:
    if spec.external is None:
        return f"codec {kind!r}"
    needed = spec.external
    return f"images need the weights {needed.id!r} (sha256 {needed.sha256}, {needed.num_bytes} bytes)"
