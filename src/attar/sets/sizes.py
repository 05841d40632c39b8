"""What a distilled set costs: four sizes, none of them flattering, and the file's before its items exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from attar.base.config import Config
from attar.base.container import packed_bytes
from attar.methods.labels.hard import LabelsConfig
from attar.methods.labels.region_logits import fitted, region_table
from attar.methods.labels.regions import ObserverFacts, RegionLabels
from attar.methods.parameterizations.parameterization import ParameterizationConfig
from attar.methods.parameterizations.priors import DECODER
from attar.methods.parameterizations.registry import payload_table
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.sets.composing import compose_manifest, describe_shard
from attar.sets.manifest import (
    REAL_INITIALIZATIONS,
    SOFT_LABELS,
    DataProvenance,
    InitialProvenance,
    Manifest,
    RegionSpec,
    Table,
    table_specs,
)
from attar.sets.manifest_text import manifest_text
from attar.sets.storages import CLASS_MAJOR
from attar.sets.stored_codec import describe_codec

NumBytes = Annotated[int, Field(ge=0)]
LABELS = ("labels", SOFT_LABELS)


class Storage(Config):
    """The sizes of one set.

        paper_bytes = 4 (values of codes or priors, scales, soft or region labels and decoder)
        bits_per_class = 8 file_bytes / K

    Args:
        paper_bytes: the papers' convention: every value needed to render the items and to label them counted as
            float32, an observer that training must ask included; hard labels, and public weights outside the file,
            count nothing.
        file_bytes: the file as it is, manifest and labels included.
        codes_bytes: the items alone as they are stored, without labels and decoder: codes and their scales, or priors.
        soft_label_bytes: soft labels as they are stored.
        label_bytes: all that labels cost beside the class of each item: soft and region labels as they are stored, and
            the observer, inside the file or not, that gives them while training.
        bits_per_class: of the file.
        external: weights that rendering, or labelling while training, needs beside the file.

    Source: D3 section B.1 (paper_bytes); LatentDD section 3.2 for leaving a public decoder out.
    """

    paper_bytes: NumBytes
    file_bytes: NumBytes
    codes_bytes: NumBytes
    soft_label_bytes: NumBytes = 0
    label_bytes: NumBytes = 0
    bits_per_class: Annotated[float, Field(ge=0)]
    external: tuple[ExternalWeights, ...] = ()

    @property
    def external_bytes(self) -> int:
        """All weights beside the file together."""
        return sum(weights.num_bytes for weights in self.external)

    def sets_to_amortise(self) -> int:
        """How many such files must share the weights beside them until these cost each no more than itself."""
        return math.ceil(self.external_bytes / self.file_bytes)

    def lines(self) -> list[str]:
        """The sizes in words, one line each."""
        soft, regions = bool(self.soft_label_bytes), self.label_bytes > self.soft_label_bytes
        counted = "codes, scales, soft labels and decoder" if soft else "codes, scales and decoder"
        if regions:
            counted = "codes, scales, region labels or observer, and decoder"
        lines = [
            f"file: {self.file_bytes:,} bytes, {self.bits_per_class:,.0f} bits per class",
            f"items alone: {self.codes_bytes:,} bytes as stored",
            *[f"soft labels: {self.soft_label_bytes:,} bytes as stored"] * soft,
            *[f"region labels: {self.label_bytes - self.soft_label_bytes:,} bytes"] * regions,
            f"papers' count: {self.paper_bytes:,} bytes (every value as float32; {counted})",
        ]
        for weights in self.external:
            lines.append(
                f"not inside: {weights.id}, {weights.num_bytes:,} bytes, sha256 {weights.sha256[:12]}...: "
                f"as large as {math.ceil(weights.num_bytes / self.file_bytes):,} such files"
            )
        return lines


def storage_of(manifest: Manifest, num_bytes: int) -> Storage:
    """The sizes of a set with this manifest, in a file of so many bytes."""
    tensors = [entry for shard in manifest.shards for entry in shard.tensors.items()]
    items = [(name, spec) for name, spec in tensors if name not in LABELS]
    soft = [spec for name, spec in tensors if name == SOFT_LABELS]
    decoders = {shard.codec.identity: shard.codec for shard in manifest.shards}
    regions = [spec for shard in manifest.shards if shard.regions for spec in shard.regions.tensors.values()]
    observers = online_observers(manifest)
    stored = soft + regions + [spec for _, spec in items]
    stored += [spec for codec in decoders.values() for spec in codec.tensors.values()]
    external = {codec.external.sha256: codec.external for codec in decoders.values() if codec.external}
    external |= {facts.identity: _as_weights(facts) for facts in observers}
    labels = sum(spec.num_bytes for spec in soft + regions) + sum(facts.num_bytes for facts in observers)
    return Storage(
        paper_bytes=4 * sum(math.prod(spec.shape) for spec in stored) + sum(facts.num_bytes for facts in observers),
        file_bytes=num_bytes,
        codes_bytes=sum(spec.num_bytes for name, spec in items if not name.startswith(DECODER)),
        soft_label_bytes=sum(spec.num_bytes for spec in soft),
        label_bytes=labels,
        bits_per_class=8 * num_bytes / len(manifest.classes),
        external=tuple(external.values()),
    )


def online_observers(manifest: Manifest) -> list[ObserverFacts]:
    """The observers that training on a set must ask, each once."""
    regions = [shard.regions for shard in manifest.shards if shard.regions and shard.regions.online]
    facts = {spec.observer.identity: spec.observer for spec in regions if spec.observer}
    return list(facts.values())


def _as_weights(facts: ObserverFacts) -> ExternalWeights:
    num_values = max(1, facts.num_bytes // 4)
    name = f"observer {facts.network}".strip()
    return ExternalWeights(id=name, sha256=facts.identity, num_bytes=facts.num_bytes, num_values=num_values)


# As many characters as any learned number can have.
WIDEST_NUMBER = -1.2345678901234567e-300


def estimate_bytes(
    codec: Codec,
    preprocess: Codec,
    *,
    items: ParameterizationConfig,
    labels: LabelsConfig,
    num_per_class: int,
    classes: Sequence[str],
    observer: ObserverFacts | None = None,
    learned: Sequence[str] = (),
    parts: Sequence[int] = (),
    **facts: Any,
) -> int:
    """Bytes of the file of `num_per_class` codes for each class, without making them.

    Exact but for the digits of the initial indices, for which the largest index stands, and of learned numbers.

    Args:
        codec: of the codes.
        preprocess: as in `build`.
        items: what the recipe says of them.
        labels: what the recipe says of labels.
        num_per_class: codes of each class, at least 1; those of a mosaic are its canvases.
        classes: names.
        observer: of region labels.
        learned: names of the numbers that will be learned.
        parts: how many classes each shard of a merged set has; none for one shard of all.
        **facts: what `build` takes; of `initial` only the kind matters.

    Raises:
        InputError: region labels that cannot be stored, or not within their bytes.
    """
    num_classes, num_canvases = len(classes), num_per_class * len(classes)
    of_labels = {} if labels.item_storage is None else {"label_storage": labels.item_storage}
    described = describe_codec(codec)
    about = described if preprocess is codec else describe_codec(preprocess)
    initial, data = facts.pop("initial"), facts.pop("data")
    if not isinstance(initial, InitialProvenance):
        num_real = data.num_items if isinstance(data, DataProvenance) else len(data[1])
        indexed = initial[0] in REAL_INITIALIZATIONS and not parts  # a merged set says nothing of its images' places
        initial = (initial[0], [max(num_real - 1, 0)] * num_canvases * items.num_tiles * indexed)
    numbers = dict.fromkeys(learned, WIDEST_NUMBER)
    facts = {"seed": 0, "device": "cpu", "network": None, "scores": (), "learned": numbers, **facts}
    shards, storages = [], {} if parts else {"labels": CLASS_MAJOR}
    class_counts = list(parts) or [num_classes]
    counts = [num_per_class * number for number in class_counts]
    for count, number in zip(counts, class_counts, strict=True):
        spec = items.spec(codec, number) | of_labels
        regions = _region_spec(labels, count, counts, num_classes, facts["seed"], observer)
        table = payload_table(spec, count * items.num_tiles, codec.code_shape, num_classes)
        shards.append(describe_shard(spec, described, table_specs(table), regions, storages))
    manifest = compose_manifest(about, shards, classes, data=data, initial=initial, **facts)
    return file_bytes(manifest.model_copy(update={"content_sha256": "0" * 64}), manifest.tensor_table())


def _region_spec(
    labels: LabelsConfig,
    num_canvases: int,
    shards: Sequence[int],
    num_classes: int,
    seed: int,
    observer: ObserverFacts | None,
) -> RegionSpec | None:
    """What a file will say of the region labels of a shard; None for labels of another kind."""
    if not isinstance(labels, RegionLabels):
        return None
    config = fitted(labels, shards, num_classes)
    table = table_specs(region_table(config, num_canvases, num_classes))
    return RegionSpec(labels=config, seed=seed, observer=observer, tensors=table)


def file_bytes(manifest: Manifest, stored: Table) -> int:
    """Size of the file with this manifest and tensors of these dtypes and shapes."""
    table = {name: (spec.dtype, spec.shape) for name, spec in stored.items()}
    return packed_bytes(manifest_text(manifest), table)
