"""A WebDataset: one .tar in which the files of a sample share a name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from attar.base.errors import InputError
from attar.base.files import atomic_path, refuse_existing
from attar.sets.distilled import DistilledSet
from attar.sets.exports.rendering import ABOUT, CLASSES, Rendered, about, json_text, lost_with_pictures, png_bytes

# Readers of the format pass over folders that are named so.
ASIDE = "__attar__"


def export_webdataset(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    """See `attar.sets.exports.export.export`. Equal sets give equal bytes: no times, no owners."""
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
        told = about(distilled, "webdataset", lost_with_pictures(rendered))
        _add(archive, f"{ASIDE}/{ABOUT}", json_text(told).encode())
        _add(archive, f"{ASIDE}/{CLASSES}", json_text(list(distilled.classes)).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
