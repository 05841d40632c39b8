"""The text of a manifest in its file: everything that does not follow from the rest of the file."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_jsonable_python

from attar.base.config import Config, parse_config
from attar.base.container import parse_json
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.methods.labels.region_logits import region_table
from attar.methods.parameterizations.registry import canvas_grid, payload_table
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.sets.manifest import (
    REAL_INITIALIZATIONS,
    SCHEMA_VERSION,
    CodecSpec,
    CodeShape,
    Count,
    DataProvenance,
    Facts,
    InitialProvenance,
    Manifest,
    RegionSpec,
    Sha256,
    ShardSpec,
    Tensors,
    checked_manifest,
    privacy_statement,
    table_specs,
    tensors_digest,
)
from attar.sets.storages import STORAGES, describe_tensors
from attar.sets.stored_codec import describe_codec, restored_codec
from attar.sets.stored_recipe import read_recipe, recipe_hints, stored_recipe

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

ShortSha256 = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{43}$")]


def manifest_text(manifest: Manifest) -> str:
    """Canonical JSON: what the file's metadata holds."""
    return canonical_json(_stored_tree(manifest) | {"sha256": _short(manifest.content_sha256)})


def content_digest(manifest: Manifest, tensors: Tensors) -> str:
    """sha256 over the text without its own "sha256", then the bytes of the file's tensors in order of their names."""
    return tensors_digest(canonical_json(_stored_tree(manifest)), tensors)


def check_content(manifest: Manifest, tensors: Tensors, where: str) -> None:
    """Raise InputError where manifest or tensors were changed since the file was written."""
    if manifest.content_sha256 != content_digest(manifest, tensors):
        raise InputError(f"{where} is damaged: its content does not match its checksum; copy it again")


def _stored_tree(manifest: Manifest) -> dict[str, Any]:
    """Everything that does not follow from the rest of the file."""
    began = manifest.initialization
    implied = {"learned": {}, "scores": (), **implied_facts(manifest.recipe, began.real_pixels_inside)}
    facts = {name: getattr(manifest, name) for name in (*Facts.model_fields, "citations", "privacy", "network")}
    tree = {name: value for name, value in facts.items() if name not in implied or value != implied[name]}
    codecs = manifest.codecs()
    numbers = {identity: number for number, identity in enumerate(codecs)}
    start: dict[str, Any] = {"kind": began.kind}
    if began.indices:
        start["indices"] = index_text(began.indices)
    if began.real_pixels_inside != (began.kind in REAL_INITIALIZATIONS):
        start["real_pixels_inside"] = began.real_pixels_inside
    data = {name: value for name, value in manifest.data if (name, value) != ("split", "train")}
    stored: dict[str, Any] = to_jsonable_python(
        tree
        | {
            "codecs": [_stored_codec(codec, manifest.image_shape) for codec in codecs.values()],
            "shards": [_stored_shard(shard, numbers[shard.codec.identity]) for shard in manifest.shards],
            "recipe": stored_recipe(manifest.recipe),
            "data": data | {"fingerprint": _short(manifest.data.fingerprint)},
            "start": start,
        }
    )
    return stored


def _stored_codec(codec: CodecSpec, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    spec = {name: v for name, v in codec.spec.items() if (name, v) != ("image_shape", list(image_shape))}
    if codec.external is None:
        return spec
    elsewhere = {"external": codec.external, "identity": codec.identity, "code_shape": codec.code_shape}
    return {"spec": spec} | elsewhere


def _stored_shard(shard: ShardSpec, codec: int) -> dict[str, Any]:
    tree = {"items": shard.parameterization, "codec": codec, "num_items": shard.num_items}
    optional: dict[str, Any] = {"storages": shard.storages}
    if shard.regions is not None:
        observer = {} if shard.regions.observer is None else {"observer": shard.regions.observer}
        optional["regions"] = {"labels": shard.regions.labels, "seed": shard.regions.seed, **observer}
    return tree | {name: value for name, value in optional.items() if value}


class _Elsewhere(Config):
    """A codec that needs public weights, which may be absent: the text says what they give."""

    spec: dict[str, Any]
    external: ExternalWeights
    identity: Sha256
    code_shape: CodeShape


class _StoredShard(Config):
    items: dict[str, Any]
    codec: Annotated[int, Field(ge=0)]
    num_items: Count
    storages: dict[str, str] = Field(default={})
    regions: RegionSpec | None = None


class _StoredStart(Config):
    kind: str
    indices: Annotated[str, Field(pattern="^([1-8][A-Za-z0-9_-]+)?$", max_length=2**24)] = ""
    real_pixels_inside: bool | None = None


class _Stored(Facts):
    """The text of a file: `Manifest` without what follows from the rest."""

    codecs: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    shards: Annotated[tuple[_StoredShard, ...], Field(min_length=1)]
    recipe: dict[str, Any]
    data: DataProvenance
    start: _StoredStart
    citations: tuple[str, ...] | None = None
    privacy: str | None = None
    network: dict[str, Any] | None = None
    sha256: ShortSha256

    def resolved(self, codecs: Sequence[CodecSpec]) -> dict[str, Any]:
        """The fields of a `Manifest` with these codecs."""
        recipe = read_recipe(self.recipe)
        real = self.start.real_pixels_inside
        start = InitialProvenance(
            kind=self.start.kind,
            indices=read_indices(self.start.indices),
            real_pixels_inside=self.start.kind in REAL_INITIALIZATIONS if real is None else real,
        )
        implied = implied_facts(recipe, start.real_pixels_inside)
        return {
            **{name: getattr(self, name) for name in Facts.model_fields},
            **{name: getattr(self, name) if name in self.model_fields_set else implied[name] for name in implied},
            "preprocess": codecs[0],
            "shards": [self._shard(shard, codecs) for shard in self.shards],
            "recipe": recipe,
            "data": self.data.model_copy(update={"fingerprint": _long(self.data.fingerprint)}),
            "initialization": start,
            "content_sha256": _long(self.sha256),
        }

    def _shard(self, shard: _StoredShard, codecs: Sequence[CodecSpec]) -> ShardSpec:
        if shard.codec >= len(codecs):
            raise InputError(f"items have codec number {shard.codec}, and there are {len(codecs)}")
        codec, num_classes, spec = codecs[shard.codec], len(self.classes), shard.items
        tensors = table_specs(payload_table(spec, shard.num_items, codec.code_shape, num_classes))
        for name, storage in shard.storages.items():
            if name not in tensors or storage not in STORAGES:
                raise InputError(f"tensor {name[:80]!r} is held as {storage[:80]!r}, and one of the two is not known")
        regions = shard.regions
        if regions is not None:
            table = region_table(regions.labels, canvas_grid(spec, shard.num_items)[0], num_classes)
            regions = regions.model_copy(update={"tensors": table_specs(table)})
        resolved = ShardSpec(
            parameterization=spec,
            codec=codec,
            num_items=shard.num_items,
            tensors=tensors,
            storages=shard.storages,
            regions=regions,
        )
        resolved.stored_table(num_classes)  # refuses what a storage cannot hold, before it is unpacked
        return resolved


def read_manifest(text: str, tensors: Tensors, where: str) -> tuple[Manifest, dict[str, Codec]]:
    """The manifest in a file's metadata, and by identity the codecs that the file holds whole.

    Args:
        text: of the metadata.
        tensors: the file's; only those of codecs are looked at.
        where: what error messages call the file.

    Raises:
        InputError: a newer schema, or anything that is not a manifest; the line begins with `where`.
    """
    damaged = f"{where} has a damaged manifest"
    tree = parse_json(text, damaged)
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if type(version) is not int or version < 1:
        raise InputError(f"{damaged}: it has no schema version")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{where} was written by a newer attar (schema {version}); this one reads up to {SCHEMA_VERSION}: upgrade"
        )
    stored = parse_config(_Stored, text, damaged)
    codecs: dict[str, Codec] = {}
    try:
        specs = [_read_codec(number, tree, stored, tensors, codecs) for number, tree in enumerate(stored.codecs)]
        fields = stored.resolved(specs)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return checked_manifest(fields, damaged), codecs


def _read_codec(
    number: int, tree: dict[str, Any], stored: _Stored, tensors: Tensors, codecs: dict[str, Codec]
) -> CodecSpec:
    """One codec's description; `codecs` gets the codec itself where the file holds it whole."""
    prefix, image_shape = f"codecs.{number}.", list(stored.image_shape)
    held = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if "external" in tree:
        elsewhere = parse_config(_Elsewhere, canonical_json(tree), f"codec {number} is damaged")
        spec = {"image_shape": image_shape} | elsewhere.spec
        return CodecSpec(
            spec=spec,
            identity=elsewhere.identity,
            code_shape=elsewhere.code_shape,
            external=elsewhere.external,
            tensors=describe_tensors(held),
        )
    codec = restored_codec({"image_shape": image_shape} | tree, held, None)
    if codec.image_shape != stored.image_shape:
        raise InputError(f"codec {codec.kind!r} makes images of another shape than announced")
    described = describe_codec(codec)
    codecs[described.identity] = codec
    return described


def implied_facts(recipe: Mapping[str, Any], real_pixels_inside: bool) -> dict[str, Any]:
    """What follows from recipe and start, and is written only where it differs: citations, privacy and network."""
    hints = recipe_hints(recipe)
    citations = hints.get("citations")  # the recipe of a damaged file may hold anything
    return {
        "citations": tuple(citations) if isinstance(citations, list | tuple) else (),
        "privacy": privacy_statement(real_pixels_inside, hints.get("steps", 1)),
        "network": hints.get("evaluation_network"),
    }


def index_text(indices: Sequence[int]) -> str:
    """Indices as digits of base 64, each with as many as the largest needs, after that number.

    Example:
        >>> index_text([1, 64, 4095]), read_indices("2ABBA__")
        ('2ABBA__', (1, 64, 4095))
    """
    width = max(1, math.ceil(max(indices).bit_length() / 6))
    places = [6 * place for place in reversed(range(width))]
    return str(width) + "".join(DIGITS[index >> place & 63] for index in indices for place in places)


def read_indices(text: str) -> tuple[int, ...]:
    """The indices of `index_text`. Raises InputError for another number of digits than they need."""
    width = int(text[:1] or 1)
    if len(text[1:]) % width:
        raise InputError(f"the initial indices have {len(text) - 1} digits, {width} for each; the file is damaged")
    values = {digit: value for value, digit in enumerate(DIGITS)}
    digits = [values[digit] for digit in text[1:]]
    indices = [0] * (len(digits) // width)
    for place in range(width):
        indices = [64 * index + digit for index, digit in zip(indices, digits[place::width], strict=True)]
    return tuple(indices)


def _short(sha256: str) -> str:
    """Base64 of a sha256 that is written in hexadecimal; anything else as it is."""
    if re.fullmatch("[0-9a-f]{64}", sha256) is None:
        return sha256
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")


def _long(text: str) -> str:
    """What `_short` was given."""
    return base64.urlsafe_b64decode(text + "=").hex() if re.fullmatch("[A-Za-z0-9_-]{43}", text) else text
