"""A distilled set in the shapes that other tools read, with a note of what is lost on the way."""

from __future__ import annotations

import json
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attar.distilled import DistilledSet
from attar.errors import InputError, unknown
from attar.files import atomic_path, refuse_existing

Target = Literal["imagefolder", "npz"]
ABOUT = "attar-export.json"
CLASSES = "classes.json"
REGIONS_LOST = "region labels are left out: the items are here as whole images with their hard labels"
LONGEST_NAME_BYTES = 100
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def export(distilled: DistilledSet, to: Target, out: Path | str, overwrite: bool = False) -> Path:
    """Write the decoded items as other tools read them, whole or not at all.

    imagefolder: a folder of PNG files for each class; classes.json gives every folder's true class name, and
        attar-export.json says what was lost (values are cut to [0, 1] and rounded to 8 bits).
    npz: "images" float32 [N, C, H, W] in [0, 1] and not cut, "labels" int64 [N], where the set has them "soft_labels"
        float32 [N, K] (probabilities), "classes", the preprocessing's "mean" and "std" (and "triangle", the upper half
        of a ZCA matrix), "about" (JSON). Nothing in it is pickled.

    Learned numbers, e.g. the learning rate to train with, are in attar-export.json and in "about".

    Items are in the order of their classes.

    Args:
        distilled: any set whose codecs are complete.
        to: "imagefolder" or "npz".
        out: the folder, or the file.
        overwrite: replace an existing file, or a folder that an earlier export made.

    Returns:
        `out`.

    Raises:
        InputError: an unknown target, an `out` that exists, or public weights that are absent.
    """
    if to not in get_args(Target):
        raise unknown("export target", str(to), get_args(Target))
    out = Path(out)
    if to == "npz":
        _export_npz(distilled, out, overwrite)
    else:
        _export_imagefolder(distilled, out, overwrite)
    return out


def folder_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """A folder name for each class: safe on every file system, no two alike, in an order that sorts as the classes do.

    Tools number classes by sorted folder name; where that order would differ, or two names would be alike, every name
    gets its class index in front.

    Example:
        >>> folder_names(("cat", "dog")), folder_names(("dog", "cat/../x"))
        (('cat', 'dog'), ('0_dog', '1_cat_.._x'))
    """
    names = tuple(_safe(name) for name in classes)
    if names == tuple(sorted(names)) and len({name.casefold() for name in names}) == len(names):
        return names
    width = len(str(len(classes) - 1))
    return tuple(f"{index:0{width}}_{name}" for index, name in enumerate(names))


def _safe(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    kept = "".join(letter if letter.isalnum() or letter in " ._-()+,'" else "_" for letter in name)
    kept = kept.encode()[:LONGEST_NAME_BYTES].decode(errors="ignore").rstrip(". ").lstrip(" ")
    if not kept.strip("."):
        kept = "class"
    return f"_{kept}" if kept.startswith(".") or kept.split(".")[0].casefold() in RESERVED else kept


def _export_imagefolder(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    _refuse_folder(out, overwrite)
    folders = folder_names(distilled.classes)
    order = torch.argsort(distilled.labels, stable=True)
    labels = distilled.labels[order].tolist()
    with _atomic_folder(out) as temporary:
        for folder in folders:
            (temporary / folder).mkdir()
        cut, largest, number, width = 0, 0.0, 0, len(str(len(folders) - 1))
        for part in order.split(256):
            images = distilled.images(part)
            pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8)
            cut += int(((images < 0) | (images > 1)).sum())
            largest = max(largest, float((pixels / 255 - images).abs().max()))
            for picture in pixels:
                name = f"{labels[number]:0{width}}_{number:06}.png"
                _to_picture(picture).save(temporary / folders[labels[number]] / name)
                number += 1
        _write_json(temporary / CLASSES, _class_list(distilled, folders))
        total = number * images[0].numel()
        lost = [
            f"values were cut to [0, 1] ({cut / total:.2%} lay outside) and rounded to 8 bits; the largest change is "
            f"{largest:.4f}",
            "the preprocessing of network inputs is not applied and not in the pictures",
            "codes and decoder are replaced by pixels, so the size is no longer the distilled file's",
        ]
        if distilled.soft_labels is not None:
            lost.append("soft labels are left out: a folder carries the items' hard labels only; npz has both")
        if distilled.manifest.labels_kind == "regions":
            lost.append(REGIONS_LOST)
        _write_json(temporary / ABOUT, _about(distilled, "imagefolder", lost))


def _export_npz(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    if out.suffix != ".npz":
        raise InputError(f"{out} should end in .npz; give such a file name")
    refuse_existing(out, overwrite)
    order = torch.argsort(distilled.labels, stable=True)
    lost = ["codes and decoder are replaced by pixels, so the size is no longer the distilled file's"]
    if distilled.manifest.labels_kind == "regions":
        lost.append(REGIONS_LOST)
    arrays: dict[str, Any] = {
        "images": distilled.images(order).numpy(),
        "labels": distilled.labels[order].numpy(),
        "classes": np.array(distilled.classes),
        "about": np.array(json.dumps(_about(distilled, "npz", lost), ensure_ascii=False)),
    }
    if distilled.soft_labels is not None:
        arrays["soft_labels"] = distilled.soft_labels[order].numpy()
    for name, tensor in distilled.preprocess.stored_tensors().items():
        arrays[name] = tensor.detach().cpu().numpy()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _about(distilled: DistilledSet, target: str, lost: list[str]) -> dict[str, Any]:
    if distilled.stochastic:
        lost = [*lost, "items that are distributions are here as one sample each"]
    return {
        "format": target,
        "made_by": f"attar {distilled.manifest.attar_version}",
        "set": distilled.name,
        "content_sha256": distilled.manifest.content_sha256,
        "num_images": len(distilled),
        "image_shape": list(distilled.image_shape),
        "preprocess": distilled.manifest.preprocess.spec,
        "labels_kind": distilled.manifest.labels_kind,
        "learned": distilled.learned,
        "lost": lost,
        "privacy": distilled.manifest.privacy,
    }


def _class_list(distilled: DistilledSet, folders: tuple[str, ...]) -> list[dict[str, Any]]:
    counts = distilled.num_per_class
    return [
        {"index": index, "name": name, "folder": folders[index], "num_images": counts[index]}
        for index, name in enumerate(distilled.classes)
    ]


def _to_picture(pixels: Tensor) -> Image.Image:
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _refuse_folder(out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist; make it first, or write elsewhere")
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise InputError(f"{out} exists and is left as it is; give another name, or --overwrite to replace it")
    if out.is_symlink() or not (out / ABOUT).is_file():
        raise InputError(f"{out} is not an earlier export (it has no {ABOUT}) and is left as it is; give another name")


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, renamed to it when the block ends well and removed when it does not."""
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        made = work / "new"
        made.mkdir()
        yield made
        old = work / "old"
        if out.exists():
            out.rename(old)
        try:
            made.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
