"""What `attar info` tells people of a set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attar.base.container import one_line
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import UNKNOWN, DataProvenance
from attar.sets.stored_recipe import unresolved_notes

LABELS = {
    "hard": "hard",
    "soft": "soft: a probability for every class",
    "regions": "regions: an observer's logits for another region of each stored image in every epoch",
}

SAMPLED = "distributions: every epoch of training sees new samples of them"


def facts(distilled: DistilledSet) -> list[tuple[str, str]]:
    """Return names and texts, in the order in which people ask."""
    manifest = distilled.manifest
    began = manifest.initialization
    codecs = dict.fromkeys(f"{shard.codec.spec.get('kind')} {shard.codec.code_shape}" for shard in manifest.shards)
    counts = sorted({*distilled.num_per_class})
    distributions = [shard.parameterization.get("distribution") for shard in manifest.shards]
    scores = [json.dumps(score, sort_keys=True) for score in manifest.scores] or ["none"]
    return [
        ("set", distilled.name),
        ("classes", f"{distilled.num_classes}: {', '.join(distilled.classes)}"),
        ("items", f"{len(distilled)}, {' to '.join(str(count) for count in {counts[0]: 0, counts[-1]: 0})} per class"),
        *([("items are", SAMPLED)] if "gaussian" in distributions else []),
        ("labels", LABELS[manifest.labels_kind]),
        *(("learned", f"{name} {value:.6g}") for name, value in sorted(distilled.learned.items())),
        ("images", " x ".join(str(side) for side in distilled.image_shape) + " (channels x height x width)"),
        ("codec", ", ".join(codecs)),
        *(("size", line) for line in distilled.storage.lines()),
        ("data", _data(manifest.data)),
        *(("recipe", one_line(note)) for note in unresolved_notes(manifest.recipe)),
        *(("assumed", line) for line in _assumed(manifest.recipe)),
        ("start", f"{began.kind}; real images may be recognised: {'yes' if began.real_pixels_inside else 'no'}"),
        ("privacy", manifest.privacy),
        ("seed", f"{manifest.seed} on {manifest.device}, attar {manifest.attar_version}"),
        *(("score", score) for score in scores),
        ("cites", ", ".join(manifest.citations) or "nothing"),
    ]


def _data(data: DataProvenance) -> str:
    if data.fingerprint == UNKNOWN:
        return f"{data.name}; which of its images, is not known"
    return f"{data.name}, {data.num_items} images, sha256 {data.fingerprint[:12]}..."


def _assumed(recipe: Mapping[str, Any]) -> list[str]:
    """Return what was assumed of a foreign set; nothing for any other."""
    lines = recipe.get("assumed", ())
    return [one_line(str(line)) for line in lines] if isinstance(lines, list) else []
