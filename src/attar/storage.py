"""What a distilled set costs: four sizes, none of them flattering, and the change from one storage to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attar.codecs.codec import ExternalWeights
from attar.config import Config
from attar.errors import InputError, unknown
from attar.labels.regions import ObserverFacts
from attar.manifest import SOFT_LABELS, Conversion, Manifest
from attar.parameterizations.codes import Storage as CodeStorage
from attar.parameterizations.codes import read_codes, store_codes
from attar.parameterizations.priors import DECODER

if TYPE_CHECKING:
    from attar.distilled import DistilledSet

NumBytes = Annotated[int, Field(ge=0)]
CODE_STORAGES = ("float32", "float16", "int8")
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
        told = [
            f"file: {self.file_bytes:,} bytes, {self.bits_per_class:,.0f} bits per class",
            f"items alone: {self.codes_bytes:,} bytes as stored",
            *[f"soft labels: {self.soft_label_bytes:,} bytes as stored"] * soft,
            *[f"region labels: {self.label_bytes - self.soft_label_bytes:,} bytes"] * regions,
            f"papers' count: {self.paper_bytes:,} bytes (every value as float32; {counted})",
        ]
        for weights in self.external:
            told.append(
                f"not inside: {weights.id}, {weights.num_bytes:,} bytes, sha256 {weights.sha256[:12]}...: "
                f"as large as {math.ceil(weights.num_bytes / self.file_bytes):,} such files"
            )
        return told


def storage_of(distilled: DistilledSet) -> Storage:
    """The sizes of `distilled`, from its manifest alone."""
    manifest = distilled.manifest
    tensors = [named for shard in manifest.shards for named in shard.tensors.items()]
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
        file_bytes=distilled.file_bytes,
        codes_bytes=sum(spec.num_bytes for name, spec in items if not name.startswith(DECODER)),
        soft_label_bytes=sum(spec.num_bytes for spec in soft),
        label_bytes=labels,
        bits_per_class=8 * distilled.file_bytes / len(manifest.classes),
        external=tuple(external.values()),
    )


def online_observers(manifest: Manifest) -> list[ObserverFacts]:
    """The observers that training on a set must ask, each once."""
    regions = [shard.regions for shard in manifest.shards if shard.regions and shard.regions.online]
    facts = {each.observer.identity: each.observer for each in regions if each.observer}
    return list(facts.values())


def _as_weights(facts: ObserverFacts) -> ExternalWeights:
    num_values = max(1, facts.num_bytes // 4)
    name = f"observer {facts.network}".strip()
    return ExternalWeights(id=name, sha256=facts.identity, num_bytes=facts.num_bytes, num_values=num_values)


def with_storage(distilled: DistilledSet, storage: CodeStorage) -> DistilledSet:
    """The same set with its codes stored as `storage`; its manifest says by how much a value changed at most.

    Labels stay as they are stored, soft ones and those of regions too: as given to the items before the change.

    Raises:
        InputError: an unknown storage, or items that are not codes.
    """
    if storage not in CODE_STORAGES:
        raise unknown("storage", storage, CODE_STORAGES)
    payloads, specs, conversions = [], [], list(distilled.manifest.conversions)
    for shard, payload in zip(distilled.manifest.shards, distilled.payloads(), strict=True):
        spec = shard.parameterization
        if spec.get("kind") not in ("codes", "mosaic"):
            raise InputError(
                f"items of kind {spec.get('kind')!r} keep the storage they were distilled for, and nothing was "
                "converted; distil again with --storage"
            )
        specs.append({**spec, "storage": storage})
        payloads.append(payload)
        if spec["storage"] != storage:
            before = read_codes(payload)
            labels = {name: tensor for name, tensor in payload.items() if name in LABELS}
            payloads[-1] = {**store_codes(before, storage), **labels}
            error = float((read_codes(payloads[-1]) - before).abs().max())
            conversions.append(Conversion(before=spec["storage"], after=storage, max_error=error))
    return distilled.with_payloads(payloads, specs).replace(conversions=tuple(conversions))
