"""How large a file will be, known before there is anything to put in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.codecs.codec import Codec
from attar.container import packed_bytes
from attar.labels.region_logits import fitted, region_table
from attar.labels.regions import ObserverFacts, RegionLabels
from attar.manifest import (
    REAL_INITIALIZATIONS,
    DataProvenance,
    InitialProvenance,
    Manifest,
    RegionSpec,
    compose_manifest,
    describe_codec,
    describe_shard,
    table_specs,
)
from attar.parameterizations.codes import Codes, LabelStorage
from attar.parameterizations.codes import Storage as CodeStorage
from attar.parameterizations.diffusion import DiffusionConfig
from attar.parameterizations.generator import GeneratorConfig
from attar.parameterizations.priors import PriorsConfig
from attar.parameterizations.registry import payload_table

# A number with as many characters as any that was learned can have.
WIDEST_NUMBER = -1.2345678901234567e-300


def estimate_bytes(
    codec: Codec,
    preprocess: Codec,
    *,
    storage: CodeStorage,
    num_per_class: int,
    classes: Sequence[str],
    label_storage: LabelStorage | None = None,
    grid: int | None = None,
    priors: PriorsConfig | None = None,
    rendered: DiffusionConfig | GeneratorConfig | None = None,
    regions: RegionLabels | None = None,
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
        storage: of the codes.
        num_per_class: codes of each class, at least 1; those of a mosaic are its canvases.
        classes: names.
        label_storage: of soft labels; None for hard ones.
        grid: tiles along each side of a mosaic's canvas; None for codes that are items themselves.
        priors: settings of the items where they are priors, in place of `storage`; the decoder is counted too.
        rendered: settings of the items where a frozen model renders them, in place of `storage`.
        regions: region labels; None for none.
        observer: of the region labels.
        learned: names of the numbers that will be learned.
        parts: how many classes each shard of a merged set has, without region labels; none for one shard of all.
        **facts: what `build` takes; of `initial` only the kind matters.

    Raises:
        InputError: region labels that cannot be stored, or not within their bytes.
    """
    num_canvases = num_per_class * len(classes)
    spec: dict[str, Any] = priors.spec() if priors else {"kind": Codes.kind, "storage": storage}
    spec = rendered.spec(codec) if rendered else spec
    spec |= {"label_storage": label_storage} if label_storage else {}
    spec |= {"kind": "mosaic", "grid": grid} if grid else {}
    num_tiles = (grid or 1) ** 2
    described = describe_codec(codec)
    about = described if preprocess is codec else describe_codec(preprocess)
    initial, data = facts.pop("initial"), facts.pop("data")
    if not isinstance(initial, InitialProvenance):
        num_real = data.num_items if isinstance(data, DataProvenance) else len(data[1])
        indexed = initial[0] in REAL_INITIALIZATIONS and not parts  # a merged set says nothing of its images' places
        initial = (initial[0], [max(num_real - 1, 0)] * num_canvases * num_tiles * indexed)
    numbers = dict.fromkeys(learned, WIDEST_NUMBER)
    facts = {"seed": 0, "device": "cpu", "network": None, "scores": (), "learned": numbers, **facts}
    labels = None
    if regions is not None:
        config = fitted(regions, num_canvases, len(classes))
        table = table_specs(region_table(config, num_canvases, len(classes)))
        labels = RegionSpec(labels=config, seed=facts["seed"], observer=observer, tensors=table)
    shards = [
        describe_shard(spec, described, table_specs(payload_table(spec, count, codec.code_shape, len(classes))), labels)
        for count in (num_tiles * num_per_class * num_own for num_own in parts or [len(classes)])
    ]
    manifest = compose_manifest(about, shards, classes, data=data, initial=initial, **facts)
    return file_bytes(manifest.model_copy(update={"content_sha256": "0" * 64}))


def file_bytes(manifest: Manifest) -> int:
    """Size of the file with this manifest and the tensors that it lists."""
    table = {name: (spec.dtype, spec.shape) for name, spec in manifest.tensor_table().items()}
    return packed_bytes(manifest.text(), table)
