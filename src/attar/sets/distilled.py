"""The distilled set: one file's content, rendered, streamed and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.base.container import MAX_HEADER_BYTES, one_line, pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, content_key, refuse_existing
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.methods.labels.region_logits import check_region_tensors
from attar.methods.labels.regions import Labeller
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.registry import canvas_grid, check_payload, restore_parameterization
from attar.models.codecs.codec import Codec
from attar.sets.composing import (
    Contents,
    compose_manifest,
    describe_payload,
)
from attar.sets.manifest import (
    CodecSpec,
    DataProvenance,
    InitialProvenance,
    Manifest,
    RegionSpec,
    ShardSpec,
    Tensors,
    check_tensors,
    checked_manifest,
    tensors_digest,
)
from attar.sets.manifest_text import check_content, content_digest, manifest_text, read_manifest
from attar.sets.sizes import Storage, estimate_bytes, file_bytes, online_observers, storage_of
from attar.sets.storages import at_rest, describe_tensors
from attar.sets.stored_codec import announced_codec, describe_codec
from attar.sets.streaming import (
    CHUNK_VALUES,
    LARGEST_CHUNK,
    DecodedItems,
    RegionItems,
    SampledItems,
    Sampler,
    check_observer_of,
    label_probabilities,
    labelled_regions,
)


class DistilledSet:
    """What was stored and nothing else: a manifest, the tensors it lists, and codecs made from them when needed.

    Make one with `build` or `load`.

    Args:
        manifest: sealed, i.e. with its checksum.
        contents: the tensors that it describes, on the CPU.
        codecs: by identity, those that exist already; they are used where they are, not copied.
        where: what error messages call the set.
    """

    def __init__(
        self, manifest: Manifest, contents: Contents, codecs: Mapping[str, Codec], where: str = "the set"
    ) -> None:
        self.manifest = manifest
        self.contents = contents
        self._codecs = dict(codecs)
        self._parameterizations: dict[int, Parameterization] = {}
        self._where = where

    @classmethod
    def build(
        cls,
        parameterization: Parameterization | Sequence[Parameterization],
        preprocess: Codec,
        *,
        classes: Sequence[str],
        recipe: Mapping[str, Any],
        data: tuple[str, ImageSet] | DataProvenance,
        initial: tuple[str, Sequence[int]] | InitialProvenance,
        seed: int = 0,
        device: str = "cpu",
        network: Mapping[str, Any] | None = None,
        scores: Sequence[Mapping[str, Any]] = (),
        learned: Mapping[str, float] | None = None,
    ) -> DistilledSet:
        """The set of one or several shards, as they would be read back: quantised where the storage is.

        Args:
            parameterization: the shards; labels index `classes`.
            preprocess: images to network inputs; not stored twice where it is also a shard's codec.
            classes: names in the order of the labels.
            recipe: resolved configuration; absolute paths in it are shortened to their last part.
            data: name and training images, or their provenance.
            initial: kind and training indices, or their provenance.
            seed: of the run.
            device: kind of device.
            network: suggested network; None takes the recipe's "evaluation_network".
            scores: measured accuracies.
            learned: numbers learned with the items, e.g. {"student_rate": 0.0123}.

        Raises:
            InputError: codes, soft labels or learned numbers that are not finite, labels without a class, class names
                a file cannot hold.
        """
        parts = [parameterization] if isinstance(parameterization, Parameterization) else list(parameterization)
        if any(part.codec.image_shape != preprocess.image_shape for part in parts):
            raise ValueError("shards and preprocess differ in the shape of their images")
        codecs = {codec.identity(): codec for codec in (preprocess, *(part.codec for part in parts))}
        described = {identity: describe_codec(codec) for identity, codec in codecs.items()}
        payloads = [_at_rest(part.payload()) for part in parts]
        shards = [
            describe_payload(part.spec(), described[part.codec.identity()], payload, len(classes))
            for part, payload in zip(parts, payloads, strict=True)
        ]
        inputs = described[preprocess.identity()]
        manifest = compose_manifest(
            inputs, shards, classes, recipe, data, initial, seed, device, network, scores, learned
        )
        stored = {identity: _at_rest(codec.stored_tensors()) for identity, codec in codecs.items()}
        return cls.assemble(manifest, Contents(stored, payloads, [{} for _ in parts]), codecs)

    @classmethod
    def assemble(
        cls, manifest: Manifest, contents: Contents, codecs: Mapping[str, Codec] | None = None
    ) -> DistilledSet:
        """The set of a manifest, sealed here, and of the tensors that it describes; see `merging`."""
        assembled = cls._seal(manifest, contents, codecs or {})
        assembled._check_items()
        return assembled

    estimate_bytes = staticmethod(estimate_bytes)

    @classmethod
    def load(cls, path: Path | str) -> DistilledSet:
        """The set in the file at `path`. No byte of it is trusted, and nothing is executed.

        Public weights that are absent are missed only when images are asked for.

        Raises:
            InputError: the file is missing, foreign, damaged, altered, or written by a newer attar; one line.
        """
        path = Path(path)
        try:
            text, tensors = unpack(path)
            manifest, codecs = read_manifest(text, tensors, str(path))
            check_tensors(manifest, tensors, str(path))
            check_content(manifest, tensors, str(path))
            loaded = cls(manifest, Contents.unpacked(manifest, tensors), codecs, where=str(path))
            loaded._check_items()
        except InputError as error:
            raise InputError(one_line(error)) from None
        return loaded

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: `path` exists and `overwrite` is False, or its folder does not exist.
            OSError: the disk is full, or the like; nothing is left behind.
        """
        path = Path(path)
        refuse_existing(path, overwrite)
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's bytes: equal sets give equal bytes."""
        return pack(manifest_text(self.manifest), self.stored_tensors())

    def stored_tensors(self) -> dict[str, Tensor]:
        """The file's tensors by their full names."""
        return self.contents.packed(self.manifest)

    @property
    def file_bytes(self) -> int:
        """Size of the file, known without writing it."""
        return file_bytes(self.manifest, describe_tensors(self.stored_tensors()))

    @property
    def storage(self) -> Storage:
        """The set's four sizes."""
        return storage_of(self.manifest, self.file_bytes)

    @property
    def name(self) -> str:
        """Recipe and data in words."""
        return f"{self.manifest.recipe.get('name', 'distilled')} of {self.manifest.data.name}"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def num_classes(self) -> int:
        return len(self.manifest.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the decoded images."""
        return self.manifest.image_shape

    def __len__(self) -> int:
        return self.manifest.num_items

    @property
    def labels(self) -> Int64[Tensor, " items"]:
        """Class of every item, shard after shard."""
        return torch.cat([payload["labels"].long() for payload in self.payloads()])

    @property
    def soft_labels(self) -> Float[Tensor, "items classes"] | None:
        """Probabilities, float32: the softmax of what is stored, or 1 at the class of an item whose label is hard.

        None for a set of hard labels, or of region labels, which belong to no item as a whole.
        """
        if self.manifest.labels_kind != "soft":
            return None
        return torch.cat([label_probabilities(payload, self.num_classes) for payload in self.payloads()])

    @property
    def learned(self) -> dict[str, float]:
        """Numbers learned with the items, by name: "student_rate" is the learning rate to train with."""
        return dict(self.manifest.learned)

    @property
    def _training_labels(self) -> Tensor:
        soft = self.soft_labels
        return self.labels if soft is None else soft

    @property
    def num_training_items(self) -> int:
        """What an epoch of training goes through: canvases with region labels, else items."""
        if self.manifest.labels_kind != "regions":
            return len(self)
        return sum(canvas_grid(shard.parameterization, shard.num_items)[0] for shard in self.manifest.shards)

    @property
    def num_per_class(self) -> tuple[int, ...]:
        """Items of each class, in class order."""
        return tuple(torch.bincount(self.labels, minlength=self.num_classes).tolist())

    @property
    def codes(self) -> Float[Tensor, "items c h w"]:
        """The codes of all items, float32. Raises InputError where items are no codes, or of several shapes."""
        parts = self.parameterizations()
        if not all(isinstance(part, Codes) for part in parts) or len({part.codec.code_shape for part in parts}) > 1:
            raise InputError(f"{self._where} has items that are not codes of one shape; use images()")
        return torch.cat([part.codes.detach().cpu() for part in parts if isinstance(part, Codes)])

    @property
    def stochastic(self) -> bool:
        """True where every epoch sees other images of the same items."""
        return any(part.stochastic for part in self.parameterizations())

    @property
    def preprocess(self) -> Codec:
        """Images to network inputs."""
        return self._codec(self.manifest.preprocess)

    @property
    def fingerprint(self) -> str:
        """sha256 of what training sees: items, codecs, classes; the same whatever scores or citations are added."""
        shards = [[shard.parameterization, shard.codec.identity] for shard in self.manifest.shards]
        regions = [shard.regions.model_dump(mode="json") for shard in self.manifest.shards if shard.regions]
        about = content_key(self.classes, self.manifest.preprocess.identity, shards, *regions)
        return tensors_digest(about, self.contents.packed(self.manifest, plain=True))

    def payloads(self) -> list[dict[str, Tensor]]:
        """What is stored of each shard's items, by the payload's own names."""
        return [dict(payload) for payload in self.contents.payloads]

    def region_tensors(self) -> list[dict[str, Tensor]]:
        """What is stored of each shard's region labels; empty where there are none, or the observer is asked."""
        return [dict(labels) for labels in self.contents.regions]

    def parameterizations(self) -> list[Parameterization]:
        """Each shard restored. Raises InputError where a codec's public weights are absent."""
        for index, (shard, payload) in enumerate(zip(self.manifest.shards, self.payloads(), strict=True)):
            if index not in self._parameterizations:
                codec, spec = self._codec(shard.codec), shard.parameterization
                restored = restore_parameterization(codec, payload, spec, self.preprocess)
                self._parameterizations[index] = restored.requires_grad_(False)
        return [self._parameterizations[index] for index in range(len(self.manifest.shards))]

    def images(
        self, items: Tensor | Sequence[int] | None = None, epoch: int | None = 0, clamp: bool = False
    ) -> Float[Tensor, "items C H W"]:
        """Items as images on the CPU, nominally in [0, 1].

        Args:
            items: indices, any order; None for all.
            epoch: which sample of stochastic items; None for their means.
            clamp: cut values to [0, 1], as a picture needs.

        Raises:
            InputError: an index out of range; public weights that are absent (their id and hash are named).
        """
        places = torch.arange(len(self)) if items is None else torch.as_tensor(items, dtype=torch.int64).cpu()
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(self):
            raise InputError(f"items {int(places.min())}..{int(places.max())} were asked for; there are {len(self)}")
        images = torch.empty(len(places), *self.image_shape)
        draw = None if epoch is None else generator(self.manifest.seed, "images", epoch)
        for start, part in self._chunks(places):
            images[start : start + len(part)] = self._decode(part, draw)
        return images.clamp_(0, 1) if clamp else images

    def loader(
        self, batch_size: int, epoch: int = 0, seed: int = 0, observer: Labeller | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images [B, C, H, W] nominally in [0, 1], labels), each item once, in a random order.

        Labels are int64 [B], or with soft labels probabilities float32 [B, K]; torch's cross_entropy takes either. With
        region labels there is one region of every canvas, with its probabilities: augment no more on top.

        Args:
            batch_size: at least 1; the last batch may be smaller.
            epoch: another epoch is another order and, for stochastic items and regions, other images.
            seed: of order and samples.
            observer: on the CPU: whom region labels are asked of, where they are not stored.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} was asked for; at least 1 is needed")
        order = torch.randperm(self.num_training_items, generator=generator(seed, "loader", epoch))
        if self.manifest.labels_kind == "regions":
            items = self._region_items(torch.device("cpu"), observer)
            regions, probabilities = items.regions(epoch), items.logits(epoch).softmax(1)
            yield from ((regions[batch], probabilities[batch]) for batch in order.split(batch_size))
            return
        draw = generator(seed, "loader images", epoch)
        labels = self._training_labels
        for batch in order.split(batch_size):
            yield torch.cat([self._decode(part, draw) for _, part in self._chunks(batch)]), labels[batch]

    def training_items(
        self, device: torch.device | str = "cpu", observer: Labeller | None = None, means: bool = False
    ) -> DecodedItems | SampledItems | RegionItems:
        """The set as network inputs on `device`: decoded once, or sampled anew each epoch where items are stochastic.

        Labels are probabilities [M, K] where the set has soft labels. With region labels the items are canvases, of
        which every epoch sees other regions, with their logits. Codecs are moved to `device` for it.

        Args:
            device: where training takes place.
            observer: on `device`: whom region labels are asked of, where they are not stored.
            means: every epoch has the means of stochastic items too, beside a sample of each.

        Raises:
            InputError: region labels need an observer and none, or another one, is given.
        """
        device = torch.device(device)
        for part in (*self.parameterizations(), self.preprocess):
            part.to(device)
        if self.manifest.labels_kind == "regions":
            return self._region_items(device, observer)
        labels = self._training_labels.to(device)
        if self.stochastic:
            sampler = Sampler(self.parameterizations(), self.preprocess, device)
            return SampledItems(sampler, labels, sampler(None) if means else None)
        return DecodedItems(self._inputs(generator(self.manifest.seed, "images", 0), device), labels)

    def describe(self) -> dict[str, Any]:
        """Everything there is to know without rendering, JSON-able."""
        about = self.manifest.model_dump(mode="json", exclude={"shards", "preprocess", "initialization"})
        return about | {
            "name": self.name,
            "attar_version": self.manifest.attar_version,
            "labels_kind": self.manifest.labels_kind,
            "num_items": len(self),
            "num_per_class": list(self.num_per_class),
            "shards": [shard.facts() for shard in self.manifest.shards],
            "preprocess": self.manifest.preprocess.spec,
            "initialization": self.manifest.initialization.model_dump(mode="json", exclude={"indices"}),
            "storage": self.storage.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
        }

    def replace(self, **fields: Any) -> DistilledSet:
        """The same set with other provenance, e.g. `scores` (their schema: `Manifest`)."""
        manifest = checked_manifest(dict(self.manifest) | fields, self._where)
        return self._seal(manifest, self.contents, self._codecs)

    def with_regions(self, regions: Sequence[tuple[RegionSpec, Tensors]]) -> DistilledSet:
        """The same set with these region labels, one for each shard; see `relabelling.with_regions`."""
        shards = [
            shard.model_copy(update={"regions": spec})
            for shard, (spec, _) in zip(self.manifest.shards, regions, strict=True)
        ]
        return self.with_shards(shards, replace(self.contents, regions=[tensors for _, tensors in regions]))

    def with_shards(
        self, shards: Sequence[ShardSpec], contents: Contents, classes: Sequence[str] | None = None
    ) -> DistilledSet:
        """The same codecs with other shards and tensors; None leaves the classes as they are."""
        fields = dict(self.manifest) | {"shards": shards, "classes": classes or self.classes}
        return self.assemble(checked_manifest(fields, self._where), contents, self._codecs)

    @classmethod
    def _seal(cls, manifest: Manifest, contents: Contents, codecs: Mapping[str, Codec]) -> DistilledSet:
        tensors = contents.packed(manifest)
        sealed = manifest.model_copy(update={"content_sha256": content_digest(manifest, tensors)})
        check_tensors(sealed, tensors, "the distilled set")
        if len(manifest_text(sealed)) > MAX_HEADER_BYTES // 2:
            raise InputError("the manifest is too large for a file; give fewer items, or shorter class names")
        return cls(sealed, contents, codecs)

    def _region_items(self, device: torch.device, observer: Labeller | None) -> RegionItems:
        check_observer_of(online_observers(self.manifest), observer, self._where)
        specs = [shard.regions for shard in self.manifest.shards if shard.regions]
        preprocess = deepcopy(self.preprocess).to(device)
        parts = labelled_regions(self.parameterizations(), specs, self.region_tensors(), preprocess, device)
        return RegionItems(parts, preprocess, self.num_classes, device, observer)

    def _check_items(self) -> None:
        for shard, payload, labels in zip(self.manifest.shards, self.payloads(), self.region_tensors(), strict=True):
            try:
                check_payload(payload, shard.parameterization, shard.codec.code_shape, self.num_classes)
                if len(payload["labels"]) != shard.num_items:
                    raise InputError(f"{shard.num_items} items are announced and {len(payload['labels'])} are there")
                if shard.regions:
                    num_canvases, _ = canvas_grid(shard.parameterization, shard.num_items)
                    check_region_tensors(labels, shard.regions.labels, num_canvases, self.num_classes)
            except InputError as error:
                raise InputError(f"{self._where}: {error}") from None

    def _codec(self, spec: CodecSpec) -> Codec:
        if spec.identity not in self._codecs:
            tensors = self.contents.codecs[spec.identity]
            try:
                self._codecs[spec.identity] = announced_codec(spec, tensors, self.image_shape)
            except InputError as error:
                raise InputError(f"{self._where}: {error}") from None
        return self._codecs[spec.identity]

    def _chunks(self, items: Tensor) -> Iterator[tuple[int, Tensor]]:
        c, h, w = self.image_shape
        size = min(LARGEST_CHUNK, max(1, CHUNK_VALUES // (c * h * w)))
        for start in range(0, len(items), size):
            yield start, items[start : start + size]

    @torch.no_grad()
    def _decode(self, items: Tensor, draw: torch.Generator | None, device: torch.device | str = "cpu") -> Tensor:
        images = torch.empty(len(items), *self.image_shape, device=device)
        first = 0
        for part in self.parameterizations():
            here = ((items >= first) & (items < first + len(part))).nonzero()[:, 0]
            if len(here):
                rendered = part.images((items[here] - first).to(part.labels.device), draw)
                images[here.to(images.device)] = rendered.to(images.device, torch.float32)
            first += len(part)
        return images

    @torch.no_grad()
    def _inputs(self, draw: torch.Generator, device: torch.device) -> Tensor:
        inputs = torch.empty(len(self), *self.preprocess.code_shape, device=device)
        for start, part in self._chunks(torch.arange(len(self))):
            inputs[start : start + len(part)] = self.preprocess.encode(self._decode(part, draw, device))
        return inputs


def _at_rest(tensors: Tensors) -> dict[str, Tensor]:
    return {name: at_rest(tensor) for name, tensor in tensors.items()}
