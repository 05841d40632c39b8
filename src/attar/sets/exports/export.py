"""A distilled set in the shapes that other tools read, with a note of what is lost on the way."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from attar.base.errors import InputError, unknown
from attar.base.files import atomic_path, refuse_existing
from attar.sets.distilled import DistilledSet
from attar.sets.exports.ddranking import export_ddranking
from attar.sets.exports.folders import atomic_folder, folder_names, refuse_folder
from attar.sets.exports.parquet import export_parquet
from attar.sets.exports.rendering import (
    ABOUT,
    CLASSES,
    SIZE_LOST,
    Rendered,
    about,
    json_text,
    lost_with_pictures,
    png_bytes,
    write_json,
)

Target = Literal["imagefolder", "npz", "parquet", "webdataset", "dd-ranking"]

# Readers of the format pass over folders that are named so.
ASIDE = "__attar__"


def export(
    distilled: DistilledSet, to: Target, out: Path | str, overwrite: bool = False, dataset: str | None = None
) -> Path:
    """Write the decoded items as other tools read them, whole or not at all.

    imagefolder: a folder of PNG files for each class; classes.json gives every folder's true class name, and
        attar-export.json says what was lost (values are cut to [0, 1] and rounded to 8 bits).
    npz: "images" float32 [N, C, H, W] in [0, 1] and not cut, "labels" int64 [N], where the set has them "soft_labels"
        float32 [N, K] (probabilities), "classes", the preprocessing's "mean" and "std" (and "triangle", the upper half
        of a ZCA matrix), "about" (JSON). Nothing in it is pickled.
    parquet: a Hugging Face data set: a folder with data/train-00000-of-00001.parquet (PNG images, labels, where the set
        has them soft labels) and README.md, its card.
    webdataset: one .tar; of each item 000000.png, 000000.cls and, with soft labels, 000000.json.
    dd-ranking: a folder with images.pt (network inputs), labels.pt, where there is a learned rate lr.pt, and
        config.yaml.

    Learned numbers, e.g. the learning rate to train with, are in attar-export.json and in "about".

    Items are in the order of their classes.

    Args:
        distilled: any set whose codecs are complete.
        to: one of `Target`.
        out: the folder, or the file.
        overwrite: replace an existing file, or a folder that an earlier export made.
        dataset: for "dd-ranking", its name of the data, e.g. "CIFAR10".

    Returns:
        `out`.

    Raises:
        InputError: an unknown target, an `out` that exists, public weights that are absent, or what a target cannot
            express.
    """
    if to not in get_args(Target):
        raise unknown("export target", str(to), get_args(Target))
    if dataset is not None and to != "dd-ranking":
        raise InputError(f"--dataset {dataset} has no effect with --to {to}; leave it out")
    out = Path(out)
    layouts = {
        "imagefolder": _export_imagefolder,
        "npz": _export_npz,
        "parquet": export_parquet,
        "webdataset": _export_webdataset,
    }
    if to == "dd-ranking":
        export_ddranking(distilled, out, overwrite, dataset)
    else:
        layouts[to](distilled, out, overwrite)
    return out


def _export_npz(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    if out.suffix != ".npz":
        raise InputError(f"{out} should end in .npz; give such a file name")
    refuse_existing(out, overwrite)
    rendered = Rendered(distilled)
    arrays: dict[str, Any] = {
        "images": distilled.images(rendered.order).numpy(),
        "labels": distilled.labels[rendered.order].numpy(),
        "classes": np.array(distilled.classes),
        "about": np.array(json.dumps(about(distilled, "npz", [SIZE_LOST]), ensure_ascii=False)),
    }
    if rendered.soft_labels is not None:
        arrays["soft_labels"] = rendered.soft_labels.numpy()
    for name, tensor in distilled.preprocess.stored_tensors().items():
        arrays[name] = tensor.detach().cpu().numpy()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _export_imagefolder(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
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


def _export_webdataset(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    # Equal sets give equal bytes: no times, no owners.
    if out.suffix != ".tar":
        raise InputError(f"{out} should end in .tar; give such a file name")
    refuse_existing(out, overwrite)
    rendered = Rendered(distilled)
    soft = rendered.soft_labels
    with atomic_path(out) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (label, picture) in enumerate(zip(rendered.labels, rendered.pictures(), strict=True)):
            _add(archive, f"{number:06}.cls", str(label).encode())
            if soft is not None:
                _add(archive, f"{number:06}.json", json.dumps({"soft_label": soft[number].tolist()}).encode())
            _add(archive, f"{number:06}.png", png_bytes(picture))
        note = about(distilled, "webdataset", lost_with_pictures(rendered))
        _add(archive, f"{ASIDE}/{ABOUT}", json_text(note).encode())
        _add(archive, f"{ASIDE}/{CLASSES}", json_text(list(distilled.classes)).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
