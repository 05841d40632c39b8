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
from attar.report.page.charts import stacked_bar
from attar.report.page.markup import Html, element, joined, table
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
    """What the file is, in sentences."""
    manifest = distilled.manifest
    channels, height, width = distilled.image_shape
    recipe = str(manifest.recipe.get("name") or "unknown")
    title = manifest.recipe.get("title")
    called = f"{recipe} ({title})" if isinstance(title, str) and title else recipe
    kind = "grey" if channels == 1 else "colour"
    num_items = f"{len(distilled):,} {'items' if len(distilled) > 1 else 'item'}"
    told = [
        f"A distilled data set of {distilled.num_classes:,} classes: {num_items} in {bytes_text(distilled.file_bytes)}"
        f", which become {kind} images of {height} x {width} pixels.",
        f"Made from {manifest.data.num_items:,} training images of {manifest.data.name} with recipe {called}.",
        KINDS[manifest.labels_kind],
    ]
    if any(shard.parameterization.get("distribution") == "gaussian" for shard in manifest.shards):
        told.append("Items are distributions: every epoch of training sees new samples of them.")
    return [*told, manifest.privacy]


def sizes(distilled: DistilledSet, identity: str) -> Html:
    """The four sizes, and what the bytes of the file are."""
    storage = distilled.storage
    external = "; ".join(
        f"{weights.id}: {weights.num_bytes:,} bytes, sha256 {weights.sha256[:12]}..." for weights in storage.external
    )
    if external:
        external += f" (as large as {storage.sets_to_amortise():,} such files)"
    rows = [
        [
            "papers' count",
            f"{storage.paper_bytes:,} bytes",
            "4 for every value needed to render and to label the items",
        ],
        ["file", f"{storage.file_bytes:,} bytes", "as it lies on the disk, manifest included"],
        [
            "bits per class",
            f"{storage.bits_per_class:,.0f} bits",
            "8 times the file's bytes over the number of classes",
        ],
        ["public weights beside it", f"{storage.external_bytes:,} bytes", external or "none are needed"],
    ]
    numbers = frozenset({"how much"})
    found = table(("size", "how much", "what it counts"), rows, caption="four sizes of the set", numbers=numbers)
    drawn = stacked_bar(_parts(distilled), identity)
    return joined([found, element("figure", drawn, element("figcaption", "what the bytes of the file are"))])


def labels(distilled: DistilledSet) -> Html:
    """Kind and bytes of the labels, and how region labels were made."""
    storage, shards = distilled.storage, distilled.manifest.shards
    asked = sum(observer.num_bytes for observer in online_observers(distilled.manifest))
    counts = {
        "the class of each item": sum(shard.tensors["labels"].num_bytes for shard in shards),
        "soft labels": storage.soft_label_bytes,
        "region labels": storage.label_bytes - storage.soft_label_bytes - asked,
        "the observer that training must ask, not in the file": asked,
    }
    rows = [["kind", LABELS[distilled.manifest.labels_kind]]]
    rows += [[what, f"{count:,} bytes"] for what, count in counts.items() if count]
    for place, shard in enumerate(shards):
        where = f"shard {place + 1}, " if len(shards) > 1 else ""
        if shard.regions is not None:
            rows += [[f"{where}{key}", _told(value)] for key, value in _region_settings(shard.regions.labels).items()]
            observer = shard.regions.observer
            if observer is not None:
                told = f"{observer.network or 'network'}, {observer.num_bytes:,} bytes, sha256 {observer.identity}"
                rows.append([f"{where}observer", told])
    return table(("", ""), rows, caption="labels as stored", class_="scroll facts")


def provenance(distilled: DistilledSet, real: ImageSet | None) -> Html:
    """Where the file comes from: what `attar info` says, and what pins it down."""
    manifest = distilled.manifest
    rows = [[called, text] for called, text in facts(distilled) if called not in ("set", "score", "cites", "size")]
    rows += [
        ["data fingerprint", manifest.data.fingerprint],
        ["versions", ", ".join(f"{key} {value}" for key, value in sorted(manifest.versions.items()))],
        ["commit, time", "a file of this format names neither; minutes of training stand with the scores"],
        ["content", f"sha256 {manifest.content_sha256}"],
        ["what training sees", f"sha256 {distilled.fingerprint}"],
    ]
    rows += [
        ["stored anew", f"{each.before} to {each.after}, a value changed by {each.max_error:.3g} at most"]
        for each in manifest.conversions
    ]
    if real is not None:
        same = real.fingerprint == manifest.data.fingerprint
        told = "are those the file was made from" if same else "are not those the file was made from"
        rows.append(["real images here", f"{len(real):,}, which {told}"])
    return table(("", ""), rows, caption="where the file comes from", class_="scroll facts")


def settings(distilled: DistilledSet) -> Html:
    """Every setting of the resolved recipe."""
    rows = [[key, value] for key, value in _flat(distilled.manifest.recipe)]
    more = f"The first {MOST_SETTINGS} of {len(rows)} are listed." if len(rows) > MOST_SETTINGS else None
    caption = "resolved settings of the recipe"
    inside = table(("setting", "value"), rows[:MOST_SETTINGS], caption=caption, class_="scroll tall facts")
    summary = element("summary", f"All {len(rows)} settings")
    return element("details", summary, inside, more and element("p", more, class_="note"))


def citations(distilled: DistilledSet, identity: str) -> Html:
    """BibTeX of what the file rests on, with a button that copies it."""
    keys = distilled.manifest.citations
    known = [ENTRIES[key] for key in keys if key in ENTRIES]
    unknown = [key for key in keys if key not in ENTRIES]
    if not keys:
        return element("p", "The file rests on no publication.")
    told = f"This version of attar does not know: {', '.join(unknown)}." if unknown else None
    if not known:
        return element("p", told)
    button = element("button", "Copy BibTeX", type_="button", class_="copy", data_copies=identity, hidden=True)
    text = element("pre", "\n\n".join(known), id=identity, tabindex=0)
    return joined([button, text, told and element("p", told)])


def _region_settings(labels: RegionLabels) -> dict[str, Any]:
    """The settings that have an effect with this storage."""
    settings = labels.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    idle = {"top_k": "top-k", "code_bytes": "codebook"}
    return {key: value for key, value in settings.items() if idle.get(key, labels.storage) == labels.storage}


def _parts(distilled: DistilledSet) -> list[tuple[str, int]]:
    """Bytes of the file by what they are for; what no tensor takes is the manifest."""
    counts = {"items": 0, "labels": 0, "decoder and codec": 0}
    for name, spec in distilled.manifest.tensor_table().items():
        _, _, own = name.split(".", 2) if name.startswith("shards.") else ("", "", "codec.")
        if own in ("labels", SOFT_LABELS) or own.startswith("regions."):
            counts["labels"] += spec.num_bytes
        elif own.startswith(("codec.", DECODER)):
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
        yield prefix, _told(tree)


def _told(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
