"""What a distilled file says about itself, and the checks that it is true."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import to_jsonable_python
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.methods.labels.regions import ObserverFacts, RegionLabels
from attar.models.codecs.codec import ExternalWeights
from attar.sets.storages import PLAIN, STORAGES, TensorSpec

SCHEMA_VERSION = 1
SOFT_LABELS = "soft_labels"
UNKNOWN = "unknown"
RATE = "student_rate"
LARGEST_SIDE = 4096
LARGEST_DECODED_VALUES = 2**38
LARGEST_LEARNED = 1e30
MOST_LEARNED = 64
REAL_INITIALIZATIONS = ("random", "herding", "k-centre", "key", "hardest")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, lt=2**48)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
ImageShape = tuple[Literal[1, 3], Side, Side]
CodeShape = tuple[Count, Count, Count]
ClassNames = Annotated[tuple[str, ...], Field(min_length=2)]
LearnedName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,63}$")]
LearnedValue = Annotated[float, Field(ge=-LARGEST_LEARNED, le=LARGEST_LEARNED)]
Learned = Annotated[dict[LearnedName, LearnedValue], Field(max_length=MOST_LEARNED)]
Tensors = Mapping[str, Tensor]
Table = dict[str, TensorSpec]


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
    code_shape: CodeShape
    external: ExternalWeights | None
    tensors: Table


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
    observer: ObserverFacts | None = None
    tensors: Table = Field(default={})

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
        tensors: the payload's, as they are used.
        storages: by which name of `STORAGES` a tensor is held that is not stored as it is.
        regions: the region labels, where there are some.
    """

    parameterization: dict[str, Any]
    codec: CodecSpec
    num_items: Count
    tensors: Table
    storages: dict[str, str] = Field(default={})
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

    def stored_table(self, num_classes: int) -> Table:
        """Dtype and shape of each of the tensors that hold the payload in the file."""
        return {
            name + suffix: part
            for name, spec in self.tensors.items()
            for suffix, part in STORAGES[self.storages.get(name, PLAIN)].table(spec, num_classes).items()
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


class Facts(Config):
    """What a manifest and its text in the file say in the same words."""

    schema_version: Literal[1] = 1
    classes: ClassNames
    image_shape: ImageShape
    learned: Learned = Field(default={})
    seed: int
    device: str
    versions: dict[str, str]
    scores: tuple[dict[str, Any], ...] = ()

    @field_validator("classes")
    @classmethod
    def _nameable(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        check_classes(classes)
        return classes


class Manifest(Facts):
    """All that a file says beside its tensors: everything training needs, or a name with a hash for what is elsewhere.

    Args:
        schema_version: of the file.
        classes: names in the order of the labels.
        image_shape: (C, H, W) of the decoded images, whose black is 0 and whose white is 1.
        preprocess: images to network inputs (normalisation or ZCA).
        shards: the items.
        recipe: the resolved configuration of the run; see `read_recipe` for one that another attar resolved.
        learned: numbers learned with the items, by name: "student_rate" is the learning rate to train with (MTT).
        data: provenance of the real images.
        seed: from which every random choice was derived.
        device: kind of device that distilled it.
        versions: of what computed it: attar, python and torch.
        initialization: what the items started from.
        citations: keys of the papers behind the recipe.
        privacy: what may and may not be expected.
        network: suggested network to train on it, or None.
        scores: measured accuracies, one dictionary each.
        content_sha256: over the text of all of the above and every tensor.
    """

    preprocess: CodecSpec
    shards: Annotated[tuple[ShardSpec, ...], Field(min_length=1)]
    recipe: dict[str, Any]
    data: DataProvenance
    initialization: InitialProvenance
    citations: tuple[str, ...] = ()
    privacy: str
    network: dict[str, Any] | None = None
    content_sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        num_values = math.prod(self.image_shape) * self.num_items
        if num_values > LARGEST_DECODED_VALUES:
            raise ValueError(f"{num_values} values in the decoded images; at most {LARGEST_DECODED_VALUES} are allowed")
        regions = [shard.regions is not None for shard in self.shards]
        if any(regions) and (not all(regions) or any(shard.has_soft_labels for shard in self.shards)):
            raise ValueError("some items have region labels and others have not, or have soft ones; take one kind")
        codecs = self.codecs()
        for codec in (self.preprocess, *(shard.codec for shard in self.shards)):
            if codecs[codec.identity] != codec:
                raise ValueError(f"codec {codec.identity[:12]} is described in two ways")
        return self

    @property
    def num_items(self) -> int:
        return sum(shard.num_items for shard in self.shards)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def attar_version(self) -> str:
        """Of the attar that wrote the file."""
        return self.versions.get("attar", UNKNOWN)

    @property
    def labels_kind(self) -> Literal["hard", "soft", "regions"]:
        """What labels are: a class of each item; a probability for every class too, in some shard or all; or logits of
        an observer for a region of every canvas in every epoch."""
        if self.shards[0].regions is not None:
            return "regions"
        return "soft" if any(shard.has_soft_labels for shard in self.shards) else "hard"

    def codecs(self) -> dict[str, CodecSpec]:
        """Each codec once, by identity: what makes network inputs, then those of shards; tensors are numbered so."""
        codecs: dict[str, CodecSpec] = {}
        for codec in (self.preprocess, *(shard.codec for shard in self.shards)):
            codecs.setdefault(codec.identity, codec)
        return codecs

    def tensor_table(self) -> Table:
        """The dtype and shape of each of the file's tensors, by its full name."""
        table = {
            f"codecs.{index}.{name}": spec
            for index, codec in enumerate(self.codecs().values())
            for name, spec in codec.tensors.items()
        }
        for index, shard in enumerate(self.shards):
            held = shard.stored_table(self.num_classes)
            regions = shard.regions.tensors if shard.regions else {}
            table |= {f"shards.{index}.{name}": spec for name, spec in held.items()}
            table |= {f"shards.{index}.regions.{name}": spec for name, spec in regions.items()}
        return table


def checked_manifest(fields: Mapping[str, Any], what: str) -> Manifest:
    """The manifest with these fields. Raises InputError, whose line begins with `what`, where they are none."""
    return parse_config(Manifest, canonical_json(to_jsonable_python(fields)), what)


def privacy_statement(real_pixels_inside: bool, steps: int) -> str:
    """What may be expected of a set's privacy: never a guarantee."""
    if not real_pixels_inside:
        return "No differential-privacy guarantee. No item began as a real image; items were fitted to real images."
    if steps:
        return "No differential-privacy guarantee. Items began as real training images and may still show them."
    return "No differential-privacy guarantee. Items are real training images, as the codec renders them."


def table_specs(table: Mapping[str, tuple[str, tuple[int, ...]]]) -> Table:
    """Dtypes and shapes, by name, as a manifest has them."""
    return {name: TensorSpec(dtype=dtype, shape=shape) for name, (dtype, shape) in table.items()}  # type: ignore[arg-type]


def check_tensors(manifest: Manifest, tensors: Tensors, where: str) -> None:
    """Raise InputError unless the file's tensors are the listed ones, of the listed types and shapes, and finite."""
    table = manifest.tensor_table()
    for names, fault in ((table.keys() - tensors.keys(), "lacks"), (tensors.keys() - table.keys(), "has the unlisted")):
        if names:
            raise InputError(f"{where} {fault} tensor {min(names)[:80]!r}; it is damaged or was altered")
    for name, tensor in tensors.items():
        actual, expected = TensorSpec.of(tensor), table[name]
        if not actual.fits(expected):
            raise InputError(
                f"{where}: tensor {name!r} is {actual.dtype} {list(actual.shape)} "
                f"and must be {expected.dtype} {list(expected.shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: tensor {name!r} has values that are not finite; distil again")


def tensors_digest(text: str, tensors: Tensors) -> str:
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
