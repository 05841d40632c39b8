"""Several distilled sets as one: how the files of parties, or of subtasks, become the file of the whole task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from attar.base.errors import InputError
from attar.base.files import canonical_json, content_key
from attar.models.codecs.patches import SMALLEST_SCALE
from attar.models.codecs.pixels import Pixels, PixelsSpec
from attar.sets.class_columns import columns_among, shards_in_columns
from attar.sets.composing import Contents, compose_manifest
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import (
    RATE,
    CodecSpec,
    DataProvenance,
    InitialProvenance,
    Manifest,
    ShardSpec,
    Tensors,
    privacy_statement,
)
from attar.sets.storages import at_rest
from attar.sets.stored_codec import describe_codec

# What sets say of privacy, the weakest caution first.
CAUTIONS = (privacy_statement(False, 1), privacy_statement(True, 1), privacy_statement(True, 0))


@dataclass(frozen=True)
class _Part:
    """One of the sets, and what messages call it."""

    name: str
    distilled: DistilledSet

    @property
    def manifest(self) -> Manifest:
        return self.distilled.manifest


def merge(sets: Sequence[DistilledSet | Path | str], *, order: Sequence[str] | None = None) -> DistilledSet:
    """One set of the items of all, each shard with its own codec and decoder.

    The order in which sets are given changes nothing, not a byte. Classes are sorted by name, unless `order` gives
    them; shards are sorted by their sets' first class, and by content where classes are the same.

        normalisation: mean m = sum_i n_i m_i / N,  variance = sum_i n_i (s_i^2 + m_i^2) / N - m^2,
                       over the n_i training images behind each set, where they differ
        student rate:  exp(sum_i M_i log r_i / sum_i M_i), the geometric mean over the items M_i of the sets that have
                       one, because rates are compared by their ratio

    Soft labels of a set get probability 0, exactly, for the classes of others. Scores are left out, as are the places
    of initial images, which are places in several data sets; the parts' own files keep them.

    Args:
        sets: at least two, or their files, of the same image shape; classes of any two are the same, or none is.
        order: all class names, in the order that the labels shall have: e.g. `classes` of the data's ImageSet.

    Raises:
        InputError: sets that cannot be merged, saying why and what to do.

    Source: D3 (Qin et al. 2024) section 2.3, which concatenates what subtasks gave.
    Deviation: the paper's parts share one normalisation and have one kind of label.
    """
    parts = _loaded(sets)
    _check_images(parts)
    _check_overlaps(parts)
    classes = _class_order(parts, order)
    parts.sort(
        key=lambda part: (
            columns_among(part.manifest.classes, classes).sort().values.tolist(),
            part.manifest.content_sha256,
        )
    )
    _check_labels(parts)
    preprocess = _preprocess(parts)
    codecs = _codecs(parts, preprocess)
    shards, payloads, regions = _shards(parts, classes, codecs)
    manifest = _manifest(parts, classes, codecs[preprocess[0].identity], shards)
    tensors = {preprocess[0].identity: preprocess[1]}
    for part in parts:
        tensors |= part.distilled.contents.codecs
    return DistilledSet.assemble(manifest, Contents(tensors, payloads, regions))


def _loaded(sets: Sequence[DistilledSet | Path | str]) -> list[_Part]:
    if isinstance(sets, str | Path | DistilledSet) or len(sets) < 2:
        raise InputError("merge needs two sets or more; give a list of sets or files")
    parts = []
    for place, source in enumerate(sets, 1):
        if isinstance(source, DistilledSet):
            parts.append(_Part(f"set {place}", source))
        else:
            parts.append(_Part(str(source), DistilledSet.load(source)))
    return parts


def _check_images(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.manifest.image_shape != first.manifest.image_shape:
            raise InputError(
                f"image_shape is {first.manifest.image_shape} in {first.name} and {part.manifest.image_shape} in "
                f"{part.name}; distil all of them with the same --image-size and --channels"
            )


def _check_overlaps(parts: Sequence[_Part]) -> None:
    for one, other in itertools.combinations(parts, 2):
        ours, theirs = set(one.manifest.classes), set(other.manifest.classes)
        if ours & theirs and ours != theirs:
            apart = ours ^ theirs
            raise InputError(
                f"{one.name} and {other.name} share {_some(ours & theirs)}, and {_some(apart)} "
                f"{'is' if len(apart) == 1 else 'are'} in one only; sets are merged whose classes are the same, or all "
                "different: distil one of them again with other --classes, or with its classes renamed"
            )


def _class_order(parts: Sequence[_Part], order: Sequence[str] | None) -> tuple[str, ...]:
    names = {name for part in parts for name in part.manifest.classes}
    if order is None:
        return tuple(sorted(names))
    if isinstance(order, str) or len(set(order)) < len(order):
        raise InputError(f"the order {order!r:.200} must be a list that names each class once")
    absent, renamed = sorted(set(order) - names), sorted(names - set(order))
    if absent or renamed:
        faults = [f"no set has {_some(absent)}"] * bool(absent) + [f"it lacks {_some(renamed)}"] * bool(renamed)
        raise InputError(
            f"the order does not name the sets' classes: {', and '.join(faults)}; give the sets that are missing, or "
            "distil them with the names of the order"
        )
    return tuple(order)


def _check_labels(parts: Sequence[_Part]) -> None:
    """Region labels are all parts' or nobody's, of the same classes, settings and observer."""
    with_regions = [part for part in parts if part.manifest.labels_kind == "regions"]
    if not with_regions:
        return
    first = with_regions[0]
    mend = (
        'distil them without region labels (--set \'labels={"kind": "hard"}\'), and label the merged set by one '
        "observer of all classes (attar.sets.relabelling.with_regions)"
    )
    for part in parts:
        if part.manifest.labels_kind != "regions":
            raise InputError(f"{first.name} has region labels and {part.name} has not; {mend}")
        if set(part.manifest.classes) != set(first.manifest.classes):
            raise InputError(f"the region labels of {first.name} and {part.name} are of different classes; {mend}")
        if _region_settings(part) != _region_settings(first):
            raise InputError(
                f"the region labels of {first.name} and {part.name} differ in settings or observer; {mend}"
            )
        if part.manifest.preprocess.identity != first.manifest.preprocess.identity:
            raise InputError(
                f"the region labels of {first.name} and {part.name} are of images normalised in different ways; {mend}"
            )


def _region_settings(part: _Part) -> list[Any]:
    regions = [shard.regions for shard in part.manifest.shards if shard.regions]
    trees = [[spec.labels.model_dump(mode="json"), spec.observer and spec.observer.identity] for spec in regions]
    return [json for place, json in enumerate(trees) if json not in trees[:place]]


def _preprocess(parts: Sequence[_Part]) -> tuple[CodecSpec, Tensors]:
    """What makes network inputs: that of all parts, or the normalisation of all their images together."""
    kinds = {part.manifest.preprocess.identity: part for part in parts}
    if len(kinds) == 1:
        spec = parts[0].manifest.preprocess
        return spec, parts[0].distilled.contents.codecs[spec.identity]
    for part in kinds.values():
        about = part.manifest.preprocess.spec
        kind = about.get("whitening") or about.get("kind")
        if kind != "normalise":
            raise InputError(
                f"{part.name} makes network inputs by {kind!r} fitted to its own images, which cannot be put together; "
                "distil every part with a codec that normalises (any but zca), or all in one run (--subtasks)"
            )
        if not part.manifest.data.num_items:
            raise InputError(f"{part.name} does not say how many images it was distilled from; distil it again")
    # Parts that were distilled from the same images with the same normalisation count once.
    sources = {(part.manifest.data.fingerprint, part.manifest.preprocess.identity): part for part in reversed(parts)}
    counted = [(part.manifest.data.num_items, part.distilled.preprocess) for part in reversed(sources.values())]
    pooled = pooled_normalisation([(count, cast(Pixels, codec)) for count, codec in counted])
    return describe_codec(pooled), {name: at_rest(tensor) for name, tensor in pooled.stored_tensors().items()}


def pooled_normalisation(parts: Sequence[tuple[int, Pixels]]) -> Pixels:
    """The normalisation of all images together, from how many there are behind each part's.

        m = sum_i n_i m_i / N,  s^2 = sum_i n_i (s_i^2 + (m_i - m)^2) / N

    In float64; the same for any numbers of images, because all images have as many pixels.

    Args:
        parts: n_i and what normalises by mean m_i and deviation s_i of each channel.
    """
    total = sum(count for count, _ in parts)
    shares = [count / total for count, _ in parts]
    means = torch.stack([codec.mean.double().cpu() for _, codec in parts])
    deviations = torch.stack([codec.std.double().cpu() for _, codec in parts])
    weights = torch.tensor(shares, dtype=torch.float64).unsqueeze(1)
    mean = (weights * means).sum(0)
    variance = (weights * (deviations.square() + (means - mean).square())).sum(0)
    std = variance.sqrt().clamp_min(SMALLEST_SCALE)
    spec = PixelsSpec(image_shape=parts[0][1].image_shape)
    return Pixels(spec, {"mean": mean.float(), "std": std.float()})


def _codecs(parts: Sequence[_Part], preprocess: tuple[CodecSpec, Tensors]) -> dict[str, CodecSpec]:
    """One description for each identity: public weights may have several names."""
    every = [preprocess[0], *(shard.codec for part in parts for shard in part.manifest.shards)]
    every.sort(key=lambda codec: canonical_json(codec.model_dump(mode="json")))
    return {codec.identity: codec for codec in reversed(every)}


def _shards(
    parts: Sequence[_Part], classes: Sequence[str], codecs: Mapping[str, CodecSpec]
) -> tuple[list[ShardSpec], list[Tensors], list[Tensors]]:
    """All shards, with their payloads and region labels."""
    shards: list[ShardSpec] = []
    payloads: list[Tensors] = []
    regions: list[Tensors] = []
    for part in parts:
        columns = columns_among(part.manifest.classes, classes)
        try:
            renumbered, contents = shards_in_columns(part.distilled, columns, len(classes))
        except InputError as error:
            raise InputError(f"{part.name}: {error}") from None
        shards += [shard.model_copy(update={"codec": codecs[shard.codec.identity]}) for shard in renumbered]
        payloads += contents.payloads
        regions += contents.regions
    return shards, payloads, regions


def _manifest(
    parts: Sequence[_Part], classes: Sequence[str], preprocess: CodecSpec, shards: Sequence[ShardSpec]
) -> Manifest:
    manifests = [part.manifest for part in parts]
    recipe = merged_recipe([(manifest.classes, manifest.recipe) for manifest in manifests])
    networks = [manifest.network for manifest in manifests]
    merged = compose_manifest(
        preprocess,
        shards,
        classes,
        recipe,
        _data([manifest.data for manifest in manifests]),
        InitialProvenance(
            kind=_joined([manifest.initialization.kind for manifest in manifests]),
            real_pixels_inside=any(manifest.initialization.real_pixels_inside for manifest in manifests),
        ),
        min(manifest.seed for manifest in manifests),
        " + ".join(sorted({manifest.device for manifest in manifests})),
        None,
        (),
        _learned(parts),
    )
    return merged.model_copy(
        update={
            "citations": tuple(sorted({key for manifest in manifests for key in manifest.citations})),
            "privacy": strongest_caution([manifest.privacy for manifest in manifests]),
            "network": networks[0] if all(network == networks[0] for network in networks) else None,
        }
    )


def merged_recipe(recipes: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> dict[str, Any]:
    """The recipe of all parts where it is the same; else their names, and each part's recipe beside its classes.

    Args:
        recipes: classes and recipe of each part, in their order.
    """
    first = dict(recipes[0][1])
    if all(dict(recipe) == first for _, recipe in recipes):
        return first
    names = sorted({str(recipe.get("name", "distilled")) for _, recipe in recipes})
    parts = [{"classes": list(classes), "recipe": dict(recipe)} for classes, recipe in recipes]
    return {"name": " + ".join(names), "parts": parts}


def strongest_caution(statements: Sequence[str]) -> str:
    """What is to be said of all parts together: the strongest caution, and any that is not one of ours beside it."""
    ranks = [CAUTIONS.index(statement) for statement in statements if statement in CAUTIONS]
    strange = sorted({statement for statement in statements if statement not in CAUTIONS})
    return " ".join([CAUTIONS[max(ranks)]] * bool(ranks) + strange)


def _data(parts: Sequence[DataProvenance]) -> DataProvenance:
    """The images behind all parts, those behind several counted once."""
    counts = {part.fingerprint: part.num_items for part in parts}
    fingerprint = next(iter(counts)) if len(counts) == 1 else content_key("merged", sorted(counts))
    return DataProvenance(
        name=_joined([part.name for part in parts]),
        fingerprint=fingerprint,
        num_items=sum(counts.values()),
        split=_joined([part.split for part in parts]),
    )


def _joined(names: Sequence[str]) -> str:
    return " + ".join(sorted(set(names)))


def _learned(parts: Sequence[_Part]) -> dict[str, float]:
    """The numbers learned with the items: one student rate for all, any other where the parts agree."""
    learned: dict[str, float] = {}
    for name in sorted({name for part in parts for name in part.manifest.learned}):
        having = [part for part in parts if name in part.manifest.learned]
        values = [part.manifest.learned[name] for part in having]
        if len(set(values)) == 1:
            learned[name] = values[0]
        elif name != RATE or min(values) <= 0:
            raise InputError(
                f"the learned {name!r} of the sets, {', '.join(f'{value:.6g}' for value in values)[:200]}, have no "
                f"mean; distil {having[values.index(min(values))].name} again"
            )
        else:
            learned[name] = mean_rate([part.manifest.num_items for part in having], values)
    return learned


def mean_rate(num_items: Sequence[int], rates: Sequence[float]) -> float:
    """The geometric mean of rates, weighted by items.

    Example:
        >>> round(mean_rate([10, 30], [0.01, 0.16]), 12)
        0.08
    """
    logs = math.fsum(count * math.log(rate) for count, rate in zip(num_items, rates, strict=True))
    return math.exp(logs / sum(num_items))


def _some(names: Sequence[str] | set[str]) -> str:
    listed = [repr(name) for name in sorted(names)]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
