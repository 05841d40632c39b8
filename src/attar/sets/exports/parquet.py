"""A Hugging Face data set: a parquet file of PNG images and labels, and a card that describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from attar.base.errors import InputError
from attar.sets.distilled import DistilledSet
from attar.sets.exports.folders import atomic_folder, refuse_folder
from attar.sets.exports.rendering import ABOUT, Rendered, about, lost_with_pictures, png_bytes, write_json

TABLE = "data/train-00000-of-00001.parquet"
ROW_GROUP = 256


def export_parquet(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    """See `attar.sets.exports.export.export`.

    Raises:
        InputError: as there, or pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("--to parquet needs the package pyarrow; run: pip install 'attar[parquet]'") from None
    refuse_folder(out, overwrite)
    rendered = Rendered(distilled)
    kinds = {
        "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        "label": pyarrow.int64(),
    }
    if rendered.soft_labels is not None:
        kinds["soft_label"] = pyarrow.list_(pyarrow.float32())
    features = {"info": {"features": _features(distilled)}}
    schema = pyarrow.schema(kinds, metadata={"huggingface": json.dumps(features)})
    with atomic_folder(out) as temporary:
        (temporary / TABLE).parent.mkdir()
        with pyarrow.parquet.ParquetWriter(temporary / TABLE, schema) as writer:
            for columns in _groups(rendered):
                writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=ROW_GROUP)
        note = about(distilled, "parquet", lost_with_pictures(rendered))
        (temporary / "README.md").write_text(_card(distilled, note), encoding="utf-8")
        write_json(temporary / ABOUT, note)


def _groups(rendered: Rendered) -> Iterator[dict[str, Any]]:
    """The columns of `ROW_GROUP` items at a time, so that no more pictures are held."""
    pictures, soft = rendered.pictures(), rendered.soft_labels
    for start in range(0, len(rendered.labels), ROW_GROUP):
        labels = rendered.labels[start : start + ROW_GROUP]
        columns: dict[str, Any] = {
            "image": [
                {"bytes": png_bytes(picture), "path": f"{start + number:06}.png"}
                for number, picture in enumerate(islice(pictures, len(labels)))
            ],
            "label": labels,
        }
        if soft is not None:
            columns["soft_label"] = list(soft[start : start + ROW_GROUP].numpy())
        yield columns


def _features(distilled: DistilledSet) -> dict[str, Any]:
    """The columns, in the words of the Hugging Face schema."""
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(distilled.classes), "_type": "ClassLabel"},
    }
    if distilled.soft_labels is not None:
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    return features


def _card(distilled: DistilledSet, note: dict[str, Any]) -> str:
    """README.md: the columns and files for tools (JSON is YAML too), what the set is for people."""
    names = {str(index): name for index, name in enumerate(distilled.classes)}
    columns: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if distilled.soft_labels is not None:
        columns.append({"name": "soft_label", "sequence": "float32"})
    facts = {
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": TABLE}]}],
        "dataset_info": {"features": columns},
    }
    header = "".join(f"{key}: {json.dumps(value)}\n" for key, value in facts.items())
    lines = [f"- {line}" for line in note["lost"]]
    learned = [f"- {name}: {value:.6g}" for name, value in sorted(distilled.learned.items())]
    return "\n".join(
        [
            f"---\n{header}---\n",
            "# A distilled set of images\n",
            f"{len(distilled)} synthetic images of {distilled.num_classes} classes, made to train a classifier in",
            f"place of a larger data set. Written by {note['made_by']} from a file with the content",
            f"sha256 {note['content_sha256']}; more is in {ABOUT}.\n",
            f"{distilled.manifest.privacy}\n",
            "What this copy does not hold of the distilled file:\n",
            *lines,
            *(["\nLearned with the images:\n", *learned] if learned else []),
            "",
        ]
    )
