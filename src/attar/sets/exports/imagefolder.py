"""A folder of PNG files for each class, as torchvision's ImageFolder and its kin read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.sets.distilled import DistilledSet
from attar.sets.exports.folders import atomic_folder, folder_names, refuse_folder
from attar.sets.exports.rendering import ABOUT, CLASSES, Rendered, about, lost_with_pictures, write_json


def export_imagefolder(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    """See `attar.sets.exports.export.export`."""
    refuse_folder(out, overwrite)
    folders, rendered = folder_names(distilled.classes), Rendered(distilled)
    width = len(str(len(folders) - 1))
    with atomic_folder(out) as temporary:
        for folder in folders:
            (temporary / folder).mkdir()
        for number, (label, picture) in enumerate(zip(rendered.labels, rendered.pictures(), strict=True)):
            picture.save(temporary / folders[label] / f"{label:0{width}}_{number:06}.png")
        write_json(temporary / CLASSES, _class_list(distilled, folders))
        lost = lost_with_pictures(rendered)
        if distilled.soft_labels is not None:
            lost.append("soft labels are left out: a folder carries the items' hard labels only; npz has both")
        write_json(temporary / ABOUT, about(distilled, "imagefolder", lost))


def _class_list(distilled: DistilledSet, folders: tuple[str, ...]) -> list[dict[str, Any]]:
    counts = distilled.num_per_class
    return [
        {"index": index, "name": name, "folder": folders[index], "num_images": counts[index]}
        for index, name in enumerate(distilled.classes)
    ]
