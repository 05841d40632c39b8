"""Arrays in one .npz file, as numpy reads them without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from attar.base.errors import InputError
from attar.base.files import atomic_path, refuse_existing
from attar.sets.distilled import DistilledSet
from attar.sets.exports.rendering import SIZE_LOST, Rendered, about


def export_npz(distilled: DistilledSet, out: Path, overwrite: bool) -> None:
    """See `attar.sets.exports.export.export`."""
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
