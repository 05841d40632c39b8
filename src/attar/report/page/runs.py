"""The losses of the run that made a file, where its folder NAME.run still lies beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.base.errors import InputError
from attar.runs.checkpoints import run_folder
from attar.sets.composing import without_folders
from attar.sets.distilled import DistilledSet

LARGEST_FILE = 64_000_000
LARGEST_LOSS = 1e100
MOST_PARTS = 12
REWORDED = ("codec", "citations")
"""Of a recipe, what a file tells in other words than its run: a codec without paths, and the papers of subtasks too."""


@dataclass(frozen=True)
class LossCurve:
    """The losses of one run, or of one part of it.

    Args:
        name: of the part; "" where there is one run.
        steps: ascending, counted from 1.
        losses: one for each, finite.
    """

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


def loss_curves(file: Path, distilled: DistilledSet) -> tuple[list[LossCurve], str]:
    """Read the losses in the folder beside `file`, and say in words what is missing.

    Nothing is taken from the folder of a run with other data, another recipe or another seed.
    """
    folder = run_folder(file)
    if not folder.is_dir():
        return [], f"There is no folder {folder.name} beside the file, where the losses of a run are kept."
    try:
        differing = _difference(_read_json(folder / "run.json"), distilled)
        if differing:
            return [], f"The folder {folder.name} is of another run ({differing}); its losses are not drawn."
        places = _places(folder)
        if not places:
            return [], f"The folder {folder.name} has no losses: nothing was optimised in steps."
        curves = [_curve(place, name) for place, name in places[:MOST_PARTS]]
    except InputError as error:
        return [], f"The losses cannot be drawn: {error}."
    more = f"The first {MOST_PARTS} of {len(places)} parts are drawn." if len(places) > MOST_PARTS else ""
    return curves, more


def _places(folder: Path) -> list[tuple[Path, str]]:
    """Return the files of losses, each with the name of its part, which is "" where there is one run."""
    whole = folder / "metrics.jsonl"
    if whole.is_file():
        return [(whole, "")]
    parts = [(part / "metrics.jsonl", part.stem) for part in (folder / "parts").glob("*.run")]
    # Parts are numbered without leading zeros: the shorter name comes first.
    return sorted(((path, name) for path, name in parts if path.is_file()), key=lambda part: (len(part[1]), part[1]))


def _curve(path: Path, name: str) -> LossCurve:
    _refuse_large(path)
    try:
        steps, losses = read_metrics(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None
    if not all(type(step) is int and 0 <= step < 2**53 for step in steps):
        raise InputError(f"{path.name} has a step that is no count")
    if max(abs(loss) for loss in losses) > LARGEST_LOSS:
        raise InputError(f"{path.name} has a loss beyond {LARGEST_LOSS:g}")
    return LossCurve(name, tuple(steps), tuple(losses))


def _difference(run: Any, distilled: DistilledSet) -> str:
    """Say where a run's configuration differs from that of the file; "" where it does not."""
    manifest = distilled.manifest
    if not isinstance(run, dict):
        return "its run.json is no configuration"
    expected = {"seed": manifest.seed, "data": manifest.data.fingerprint, "device": manifest.device}
    for name, value in expected.items():
        if run.get(name) != value:
            return f"{name} differs"
    recipe = without_folders(run.get("recipe"))
    if not isinstance(recipe, dict):
        return "it names no recipe"
    comparable = {key: value for key, value in recipe.items() if key not in REWORDED}
    return _first_difference(comparable, manifest.recipe, "recipe")


def _first_difference(run: Any, manifest: Any, where: str) -> str:
    """Name the first setting that both have and that differs."""
    if isinstance(run, dict) and isinstance(manifest, dict):
        differences = (_first_difference(run[key], manifest[key], f"{where}.{key}") for key in run if key in manifest)
        return next((difference for difference in differences if difference), "")
    return "" if _plain(run) == _plain(manifest) else f"{where} differs"


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _read_json(path: Path) -> Any:
    _refuse_large(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path.name} is absent or damaged") from None


def _refuse_large(path: Path) -> None:
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path.name} has more than {LARGEST_FILE:,} bytes")


def read_metrics(path: Path) -> tuple[list[int], list[float]]:
    """Read steps and their finite losses. Raises InputError for a file that has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        pairs = [(record["step"], float(record["loss"])) for record in records]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a run's metrics.jsonl") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(f'{path} is not a run\'s metrics: each line must be JSON with "step" and "loss"') from None
    pairs = [(step, loss) for step, loss in pairs if math.isfinite(loss)]
    if not pairs:
        raise InputError(f"{path} has no finite loss to plot yet; let the run take a few steps")
    return [step for step, _ in pairs], [loss for _, loss in pairs]
