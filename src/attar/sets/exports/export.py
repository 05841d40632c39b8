"""A distilled set in the shapes that other tools read, with a note of what is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from attar.base.errors import InputError, unknown
from attar.sets.distilled import DistilledSet
from attar.sets.exports.arrays import export_npz
from attar.sets.exports.ddranking import export_ddranking
from attar.sets.exports.imagefolder import export_imagefolder
from attar.sets.exports.parquet import export_parquet
from attar.sets.exports.shards import export_webdataset

Target = Literal["imagefolder", "npz", "parquet", "webdataset", "dd-ranking"]
LAYOUTS = {
    "imagefolder": export_imagefolder,
    "npz": export_npz,
    "parquet": export_parquet,
    "webdataset": export_webdataset,
}


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
    if to == "dd-ranking":
        export_ddranking(distilled, out, overwrite, dataset)
    else:
        LAYOUTS[to](distilled, out, overwrite)
    return out
