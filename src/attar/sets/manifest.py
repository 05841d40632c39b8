"""What a distilled file says about itself, and the check that it is true."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.container import DTYPE_NAMES, DTYPES, parse_json
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.methods.labels.regions import ObserverFacts, RegionLabels
from attar.models.codecs.codec import ExternalWeights

SCHEMA_VERSION = 4
SOFT_LABELS = "soft_labels"
UNKNOWN = "unknown"
LARGEST_SIDE = 4096
LARGEST_DECODED_VALUES = 2**38
LARGEST_LEARNED = 1e30
MOST_LEARNED = 64
REAL_INITIALIZATIONS = ("random", "herding", "k-centre", "key", "hardest")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, lt=2**48)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
LearnedName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,63}$")]
LearnedValue = Annotated[float, Field(ge=-LARGEST_LEARNED, le=LARGEST_LEARNED)]


class TensorSpec(Config):
    """dtype (safetensors' name of it) and shape of one stored tensor."""

    dtype: Literal["F32", "I32", "F16", "I16", "I8"]
    shape: tuple[Count, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The description of `tensor`."""
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{tensor.dtype} cannot be stored; allowed are {', '.join(map(str, DTYPE_NAMES))}")
        return cls(dtype=DTYPE_NAMES[tensor.dtype], shape=tuple(tensor.shape))  # type: ignore[arg-type]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class CodecSpec(Config):
    """A codec: its own description, its name by content, and what the file holds of it.

    Args:
        spec: what `restore_codec` needs beside the tensors.
        identity: `Codec.identity()`; two places with the same identity share the tensors, stored once.
        code_shape: (c, h, w).
        external: public weights needed beside the file, or None.
        tensors: names to dtype and shape.
    """

    spec: dict[str, Any]
    identity: Sha256
    code_shape: tuple[Count, Count, Count]
    external: ExternalWeights | None
    tensors: dict[str, TensorSpec]


class RegionSpec(Config):
    """The region labels of one shard.

    Args:
        labels: which regions, and how their logits are stored.
        seed: from which the regions are drawn.
        observer: whose logits they are; None where it did not say who it is.
        tensors: names to dtype and shape; none with storage "online".
    """

    labels: RegionLabels
    seed: int
    observer: ObserverFacts | None
    tensors: dict[str, TensorSpec]

    @property
    def online(self) -> bool:
        """Whether whoever trains must ask the observer."""
        return self.labels.storage == "online"

    @model_validator(mode="after")
    def _online_names_its_observer(self) -> RegionSpec:
        if self.online and self.observer is None:
            raise ValueError("labels with storage 'online' do not say which observer gives them")
        return self


class ShardSpec(Config):
    """Items that share one parameterization and one codec; labels index the classes of the whole set.

    Args:
        parameterization: its spec.
        codec: of the items.
        num_items: of whatever the labels count: images, or the tiles of a mosaic.
        tensors: the payload's.
        regions: the region labels; left out of the text where there are none.
    """

    parameterization: dict[str, Any]
    codec: CodecSpec
    num_items: Count
    tensors: dict[str, TensorSpec]
    regions: RegionSpec | None = None

    def facts(self) -> dict[str, Any]:
        """What people ask of it, without tensors."""
        return {
            "parameterization": self.parameterization,
            "codec": self.codec.spec,
            "code_shape": list(self.codec.code_shape),
            "num_items": self.num_items,
            "regions": self.regions and self.regions.model_dump(mode="json", exclude={"tensors"}),
            "external": self.codec.external and self.codec.external.model_dump(mode="json"),
        }

    @property
    def has_soft_labels(self) -> bool:
        return SOFT_LABELS in self.tensors


class DataProvenance(Config):
    """The real images behind the set.

    Args:
        name: where they came from, in words, without a path.
        fingerprint: `ImageSet.fingerprint` of the part that was distilled; "unknown" of a foreign set.
        num_items: how many they were.
        split: which part of the data set they are.
    """

    name: str
    fingerprint: str
    num_items: Annotated[int, Field(ge=0)]
    split: str = "train"


class InitialProvenance(Config):
    """What the items started from.

    Args:
        kind: "random", "herding", "k-centre" for real images; another word otherwise.
        indices: the real images' places in the training data, in the order of the items.
        real_pixels_inside: True where items began as real images, so that these may still be seen in them.
    """

    kind: str
    indices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    real_pixels_inside: bool


class Manifest(Config):
    """Everything a file says beside its tensors. The same run gives the same text: no times, no paths.

    Args:
        schema_version: the lowest that has all that the file uses: 4 with region labels of a codebook, 3 with others, 2
            with soft labels or learned numbers, else 1.
        attar_version: that wrote the file.
        classes: names in the order of the labels.
        image_shape: (C, H, W) of the decoded images.
        image_range: the values that stand for black and white; decoded images may lie a little outside.
        labels_kind: "hard": one class index for each item; "soft": also a probability for every class, for all items
            or for those of some shards; "regions": an observer's logits of a region of every canvas in every epoch.
        preprocess: images to network inputs (normalisation or ZCA).
        shards: the items.
        recipe: the resolved configuration of the run.
        learned: numbers learned with the items, by name: "student_rate" is the learning rate to train with (MTT). Left
            out of the text where there are none.
        data: provenance of the real images.
        seed: from which every random choice was derived.
        device: kind of device that distilled it.
        versions: of what computed it.
        initialization: what the items started from.
        citations: keys of the papers behind the recipe.
        privacy: what may and may not be expected.
        network: suggested network to train on it, or None.
        scores: measured accuracies, one dictionary each.
        content_sha256: over all of the above and every tensor.
    """

    schema_version: Literal[1, 2, 3, 4] = 1
    attar_version: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    image_shape: tuple[Literal[1, 3], Side, Side]
    image_range: tuple[float, float] = (0.0, 1.0)
    labels_kind: Literal["hard", "soft", "regions"] = "hard"
    preprocess: CodecSpec
    shards: Annotated[tuple[ShardSpec, ...], Field(min_length=1)]
    recipe: dict[str, Any]
    learned: dict[LearnedName, LearnedValue] = Field(default_factory=dict, max_length=MOST_LEARNED)
    data: DataProvenance
    seed: int
    device: str
    versions: dict[str, str]
    initialization: InitialProvenance
    citations: tuple[str, ...] = ()
    privacy: str
    network: dict[str, Any] | None = None
    scores: tuple[dict[str, Any], ...] = ()
    content_sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")

    @field_validator("classes")
    @classmethod
    def _nameable(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        check_classes(classes)
        return classes

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        num_values = self.image_shape[0] * self.image_shape[1] * self.image_shape[2] * self.num_items
        if num_values > LARGEST_DECODED_VALUES:
            raise ValueError(f"{num_values} values in the decoded images; at most {LARGEST_DECODED_VALUES} are allowed")
        told = label_facts(self.shards, self.learned)
        if self.labels_kind != told["labels_kind"] or self.schema_version < told["schema_version"]:
            raise ValueError(
                f"labels are said to be {self.labels_kind} in schema {self.schema_version}; these are "
                f"{told['labels_kind']}, and what is learned needs schema {told['schema_version']}"
            )
        regions = [shard.regions is not None for shard in self.shards]
        if any(regions) and (not all(regions) or any(shard.has_soft_labels for shard in self.shards)):
            raise ValueError("some items have region labels and others have not, or have soft ones; take one kind")
        known: dict[str, CodecSpec] = {}
        for codec in self.codecs().values():
            if known.setdefault(codec.identity, codec) != codec:
                raise ValueError(f"codec {codec.identity[:12]} is described in two ways")
        return self

    @property
    def num_items(self) -> int:
        return sum(shard.num_items for shard in self.shards)

    def codecs(self) -> dict[str, CodecSpec]:
        """Every place that names a codec, with its prefix among the tensors."""
        return {"preprocess.": self.preprocess} | {
            f"shards.{index}.codec.": shard.codec for index, shard in enumerate(self.shards)
        }

    def codec_prefix(self, identity: str) -> str:
        """Where the tensors of the codec with this identity are: the first place that names it."""
        return next(prefix for prefix, codec in self.codecs().items() if codec.identity == identity)

    def tensor_table(self) -> dict[str, TensorSpec]:
        """Every tensor of the file by its full name."""
        table = {
            f"shards.{i}.{name}": spec for i, shard in enumerate(self.shards) for name, spec in shard.tensors.items()
        }
        for i, shard in enumerate(self.shards):
            if shard.regions:
                table |= {f"shards.{i}.regions.{name}": spec for name, spec in shard.regions.tensors.items()}
        for prefix, codec in self.codecs().items():
            if self.codec_prefix(codec.identity) == prefix:
                table |= {prefix + name: spec for name, spec in codec.tensors.items()}
        return table

    def text(self) -> str:
        """Canonical JSON: what the file's metadata holds."""
        return canonical_json(self._tree())

    def digest(self, tensors: Mapping[str, Tensor]) -> str:
        """sha256 over the text without `content_sha256`, then every tensor's bytes in the order of their names."""
        return tensors_digest(canonical_json(self._tree("content_sha256")), tensors)

    def with_shards(self, shards: Sequence[ShardSpec]) -> Manifest:
        """The same manifest for other items, not sealed yet."""
        return self.model_copy(update={"shards": tuple(shards), **label_facts(shards, self.learned)})

    def _tree(self, *left_out: str) -> dict[str, Any]:
        """Plain values, without what the set does not have, so that files of older schemas stay as they are."""
        excluded: dict[str, Any] = dict.fromkeys(left_out, True)
        if not self.learned:
            excluded["learned"] = True
        if self.labels_kind != "regions":
            excluded["shards"] = {"__all__": {"regions"}}
        elif self.schema_version < 4:
            excluded["shards"] = {"__all__": {"regions": {"labels": {"code_bytes"}}}}
        return self.model_dump(mode="json", exclude=excluded)


def label_facts(shards: Sequence[ShardSpec], learned: Mapping[str, float]) -> dict[str, Any]:
    """The labels' kind and the schema version that follow from what is stored."""
    regions = [shard.regions for shard in shards if shard.regions]
    if regions:
        version = 4 if any(each.labels.storage == "codebook" for each in regions) else 3
        return {"labels_kind": "regions", "schema_version": version}
    soft = any(shard.has_soft_labels for shard in shards)
    return {"labels_kind": "soft" if soft else "hard", "schema_version": 2 if soft or learned else 1}


def read_manifest(text: str, where: str) -> Manifest:
    """The manifest in a file's metadata.

    Raises:
        InputError: a newer schema, or anything that is not a manifest; the line begins with `where`.
    """
    tree = parse_json(text, f"{where} has a damaged manifest")
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if type(version) is not int or version < 1:
        raise InputError(f"{where} has a damaged manifest: it has no schema version")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{where} was written by a newer attar (schema {version}); this one reads up to {SCHEMA_VERSION}: upgrade"
        )
    return parse_config(Manifest, text, f"{where} has a damaged manifest")


def check_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError unless `tensors` are exactly the listed ones, of the listed types and shapes, and finite."""
    table = manifest.tensor_table()
    for names, fault in ((table.keys() - tensors.keys(), "lacks"), (tensors.keys() - table.keys(), "has the unlisted")):
        if names:
            raise InputError(f"{where} {fault} tensor {min(names)[:80]!r}; it is damaged or was altered")
    for name, tensor in tensors.items():
        found = TensorSpec.of(tensor)
        if found != table[name]:
            raise InputError(
                f"{where}: tensor {name!r} is {found.dtype} {list(found.shape)} "
                f"and its manifest says {table[name].dtype} {list(table[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: tensor {name!r} has values that are not finite; distil again")


def check_content(manifest: Manifest, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError where manifest or tensors were changed since the file was written."""
    if manifest.content_sha256 != manifest.digest(tensors):
        raise InputError(f"{where} is damaged: its content does not match its checksum; copy it again")


def tensors_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over `text`, then every tensor's bytes in the order of their names."""
    digest = hashlib.sha256(text.encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def check_classes(classes: Sequence[str]) -> None:
    """Raise InputError for class names that a file cannot hold: empty, given twice, or with unprintable characters."""
    for name in classes:
        if not name.strip() or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(f"class name {ascii(name)[:80]} is empty or has a control character; rename the class")
        if len(name) > 1000:
            raise InputError(f"class name {ascii(name)[:80]}... has {len(name)} letters; at most 1000 are allowed")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise InputError(f"class {twice!r} is given twice; every class needs a name of its own")


RATE = "student_rate"
