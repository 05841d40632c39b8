"""What a file is: in words, by its bytes, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from attar.data.image_set import ImageSet
from attar.evaluation.plots import bytes_text
from attar.methods.citations import ENTRIES
from attar.methods.labels.regions import RegionLabels
from attar.methods.parameterizations.priors import DECODER
from attar.report.facts import LABELS, facts
from attar.report.page.markup import Table
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import SOFT_LABELS
from attar.sets.sizes import online_observers

MOST_SETTINGS = 400
LONGEST_VALUE = 400
KINDS = {
    "hard": "Each item has one class, its hard label.",
    "soft": "Each item has a probability for every class, its soft label.",
    "regions": "Labels belong to regions: another one of each stored image in every epoch, with an observer's logits.",
}


def in_words(distilled: DistilledSet) -> list[str]:
    """Say in sentences what the file is."""
    manifest = distilled.manifest
    channels, height, width = distilled.image_shape
    recipe = str(manifest.recipe.get("name") or "unknown")
    title = manifest.recipe.get("title")
    recipe += f" ({title})" if isinstance(title, str) and title else ""
    kind = "grey" if channels == 1 else "colour"
    num_items = f"{len(distilled):,} {'items' if len(distilled) > 1 else 'item'}"
    sentences = [
        f"A distilled data set of {distilled.num_classes:,} classes: {num_items} in {bytes_text(distilled.file_bytes)}"
        f", which become {kind} images of {height} x {width} pixels.",
        f"Made from {manifest.data.num_items:,} training images of {manifest.data.name} with recipe {recipe}.",
        KINDS[manifest.labels_kind],
    ]
    if any(shard.parameterization.get("distribution") == "gaussian" for shard in manifest.shards):
        sentences.append("Items are distributions: every epoch of training sees new samples of them.")
    return [*sentences, manifest.privacy]


def sizes(distilled: DistilledSet) -> Table:
    """List the four sizes of the set."""
    storage = distilled.storage
    external = "; ".join(
        f"{weights.id}: {weights.num_bytes:,} bytes, sha256 {weights.sha256[:12]}..." for weights in storage.external
    )
    if external:
        external += f" (as large as {storage.sets_to_amortise():,} such files)"
    per_class = "8 times the file's bytes over the number of classes"
    rows = [
        [
            "papers' count",
            f"{storage.paper_bytes:,} bytes",
            "4 for every value needed to render and to label the items",
        ],
        ["file", f"{storage.file_bytes:,} bytes", "as it lies on the disk, manifest included"],
        ["bits per class", f"{storage.bits_per_class:,.0f} bits", per_class],
        ["public weights beside it", f"{storage.external_bytes:,} bytes", external or "none are needed"],
    ]
    heads = ("size", "how much", "what it counts")
    return Table("four sizes of the set", rows, heads, numbers=frozenset({"how much"}))


def labels(distilled: DistilledSet) -> Table:
    """List kind and bytes of the labels, and how region labels were made."""
    storage, shards = distilled.storage, distilled.manifest.shards
    online = sum(observer.num_bytes for observer in online_observers(distilled.manifest))
    counts = {
        "the class of each item": sum(shard.tensors["labels"].num_bytes for shard in shards),
        "soft labels": storage.soft_label_bytes,
        "region labels": storage.label_bytes - storage.soft_label_bytes - online,
        "the observer that training must ask, not in the file": online,
    }
    rows = [["kind", LABELS[distilled.manifest.labels_kind]]]
    rows += [[what, f"{count:,} bytes"] for what, count in counts.items() if count]
    for place, shard in enumerate(shards):
        where = f"shard {place + 1}, " if len(shards) > 1 else ""
        if shard.regions is not None:
            rows += [[f"{where}{key}", _text(value)] for key, value in _region_settings(shard.regions.labels).items()]
            observer = shard.regions.observer
            if observer is not None:
                text = f"{observer.network or 'network'}, {observer.num_bytes:,} bytes, sha256 {observer.identity}"
                rows.append([f"{where}observer", text])
    return Table("labels as stored", rows, style="scroll facts")


def provenance(distilled: DistilledSet, real: ImageSet | None) -> Table:
    """List where the file comes from: what `attar info` says, and fingerprints and versions."""
    manifest = distilled.manifest
    elsewhere = ("set", "score", "cites", "size")
    rows = [[head, text] for head, text in facts(distilled) if head not in elsewhere]
    rows += [
        ["data fingerprint", manifest.data.fingerprint],
        ["versions", ", ".join(f"{key} {value}" for key, value in sorted(manifest.versions.items()))],
        ["commit, time", "a file of this format names neither; minutes of training stand with the scores"],
        ["content", f"sha256 {manifest.content_sha256}"],
        ["what training sees", f"sha256 {distilled.fingerprint}"],
    ]
    if real is not None:
        same = real.fingerprint == manifest.data.fingerprint
        are = "are those the file was made from" if same else "are not those the file was made from"
        rows.append(["real images here", f"{len(real):,}, which {are}"])
    return Table("where the file comes from", rows, style="scroll facts")


def settings(distilled: DistilledSet) -> tuple[Table, int]:
    """List the first `MOST_SETTINGS` settings of the resolved recipe, and count them all."""
    rows = [[key, value] for key, value in _flat(distilled.manifest.recipe)]
    caption, heads = "resolved settings of the recipe", ("setting", "value")
    return Table(caption, rows[:MOST_SETTINGS], heads, style="scroll tall facts"), len(rows)


def citations(distilled: DistilledSet) -> tuple[str, str]:
    """Return the BibTeX of the file's publications, and a sentence where there are none or some are unknown."""
    keys = distilled.manifest.citations
    missing = [key for key in keys if key not in ENTRIES]
    note = f"This version of attar does not know: {', '.join(missing)}." if missing else ""
    if not keys:
        note = "The file rests on no publication."
    return "\n\n".join(ENTRIES[key] for key in keys if key in ENTRIES), note


def _region_settings(labels: RegionLabels) -> dict[str, Any]:
    """Return the settings that have an effect with this storage."""
    settings = labels.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    idle = {"top_k": "top-k", "code_bytes": "codebook"}
    return {key: value for key, value in settings.items() if idle.get(key, labels.storage) == labels.storage}


def file_parts(distilled: DistilledSet) -> list[tuple[str, int]]:
    """Count the bytes of the file by their use; those that no tensor takes are the manifest's."""
    counts = {"items": 0, "labels": 0, "decoder and codec": 0}
    for name, spec in distilled.manifest.tensor_table().items():
        # A tensor that is no shard's is the codec's.
        _, _, part = name.split(".", 2) if name.startswith("shards.") else ("", "", "codec.")
        if part in ("labels", SOFT_LABELS) or part.startswith("regions."):
            counts["labels"] += spec.num_bytes
        elif part.startswith(("codec.", DECODER)):
            counts["decoder and codec"] += spec.num_bytes
        else:
            counts["items"] += spec.num_bytes
    rest = distilled.file_bytes - sum(counts.values())
    return [(name, count) for name, count in {**counts, "manifest": rest}.items() if count]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _text(tree)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
